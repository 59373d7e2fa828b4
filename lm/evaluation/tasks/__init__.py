"""The registry of evaluation tasks. A new one is a file here, an entry, and a name in `lm.evaluation.testset.TASKS`."""

from lm.evaluation.tasks import choice, few_shot, sentiment_preservation
from lm.evaluation.tasks.base import Task

TASKS: dict[str, Task] = {
    "choose": Task(choice.score),
    "transcribe": Task(few_shot.transcribe, uses_examples=True),
    "classify": Task(few_shot.classify, uses_examples=True),
    "continue": Task(sentiment_preservation.run, uses_examples=True),
}
"""By the task that a test set names."""
