"""The registry of published test sets: layout on disk, number of items, reader, and where a user gets them.

Nothing is downloaded. `lm.evaluation.datasets.convert` reads the user's own copy and compares its counts with these.
A new set is one entry here and a reader.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lm.evaluation.datasets import choice, speech
from lm.evaluation.datasets.choice import Reader


@dataclass(frozen=True, slots=True)
class Published:
    """One test set as its authors released it.

    Attributes:
        layout: the files of a copy, relative to the folder or zip.
        counts: split or subset -> number of items (`counted` names what is counted); empty where none was published.
        url: where its authors distribute it.
        paper: where it is described.
        usual_split: the split that results are published for.
        shots: whether a context holds solved examples, so that their number is part of the version.
    """

    name: str
    read: Reader
    layout: str
    counts: Mapping[str, int] = field(default_factory=dict)
    counted: str = "items"
    licence: str = ""
    url: str = ""
    paper: str = ""
    usual_split: str = "test"
    shots: bool = False

    def advice(self) -> str:
        """How to get it, for the end of a message."""
        return f"{self.name} is not downloaded for you: get it from {self.url} and name the folder or zip"


_ALL = (
    Published(
        "swuggy",
        choice.paired_gold("lexical", "word"),
        "lexical/{dev,test}/gold.csv (id, filename, voice, frequency, word, phones, length, correct) and *.wav",
        {"dev": 5_000, "test": 20_000},
        "pairs of a word and a non-word, each in several voices",
        "CC BY-NC-ND 4.0",
        "https://download.zerospeech.com (sLM21 dataset); gold.csv of test is held back by its authors",
        "Nguyen et al. 2020, arXiv:2011.11588",
        usual_split="dev",
    ),
    Published(
        "sblimp",
        choice.paired_gold("syntactic", "transcription"),
        "syntactic/{dev,test}/gold.csv (id, filename, voice, type, subtype, transcription, correct) and *.wav",
        {"dev": 6_300, "test": 63_000},
        "pairs of sentences, each in several voices",
        "CC BY-NC-ND 4.0",
        "https://download.zerospeech.com (sLM21 dataset); gold.csv of test is held back by its authors",
        "Nguyen et al. 2020, arXiv:2011.11588",
        usual_split="dev",
    ),
    Published(
        "tstorycloze",
        choice.read_storycloze,
        "N_correct.wav and N_incorrect.wav of whole stories; or N_mutual, N_correct and N_incorrect, each .wav, .txt "
        "or both; or a table (pair_id, type, correctness, text[, path]) as csv",
        {"test": 1_871},
        "stories with two endings",
        "as the Story Cloze Test",
        "https://github.com/slp-rl/SpokenStoryCloze",
        "Hassid et al. 2023, arXiv:2305.13009",
    ),
    Published(
        "sstorycloze",
        choice.read_storycloze,
        "as tstorycloze; or the written test: a csv with InputStoryid, InputSentence1..4, "
        "RandomFifthSentenceQuiz1..2, AnswerRightEnding",
        {"test": 1_871},
        "stories with two endings",
        "as the Story Cloze Test",
        "https://github.com/slp-rl/SpokenStoryCloze, in writing https://cs.rochester.edu/nlp/rocstories",
        "Hassid et al. 2023, arXiv:2305.13009; Mostafazadeh et al. 2016, arXiv:1604.01696",
    ),
    Published(
        "salmon",
        choice.read_salmon,
        "{bg_alignment,bg_all_consistency,bg_domain_consistency,gender_consistency,rir_consistency,sentiment_alignment,"
        "sentiment_consistency,speaker_consistency}/sample_N_{0,1}.wav; 0 is the consistent one",
        {"test": 1_600},
        "pairs of recordings, 200 in each of eight parts",
        "CC BY-NC 4.0",
        "https://github.com/slp-rl/salmon",
        "Maimon et al. 2024, arXiv:2409.07437",
    ),
    Published(
        "blimp",
        choice.read_blimp,
        "data/*.jsonl (sentence_good, sentence_bad, UID, pairID), or */*.parquet of the same columns",
        {"test": 67_000},
        "pairs of sentences, 1000 in each of 67 paradigms",
        "CC BY 4.0",
        "https://github.com/alexwarstadt/blimp",
        "Warstadt et al. 2020, arXiv:1912.00582",
    ),
    Published(
        "mmlu",
        choice.read_mmlu,
        "{dev,test}/SUBJECT_{dev,test}.csv without header (question, A, B, C, D, answer), or "
        "[SUBJECT|all]/{dev,test}-*.parquet (question, subject, choices, answer)",
        {"test": 14_042},
        "questions of 57 subjects, four answers each",
        "MIT",
        "https://github.com/hendrycks/test",
        "Hendrycks et al. 2020, arXiv:2009.03300",
        shots=True,
    ),
    Published(
        "librispeech",
        speech.read_librispeech,
        "{test-clean,test-other,dev-clean,...}/SPEAKER/CHAPTER/*.trans.txt and *.flac",
        {"dev-clean": 2_703, "dev-other": 2_864, "test-clean": 2_620, "test-other": 2_939},
        "utterances",
        "CC BY 4.0",
        "https://www.openslr.org/12",
        "Panayotov et al. 2015",
        usual_split="test-clean",
    ),
    Published(
        "fluent",
        speech.read_fluent,
        "data/{train,valid,test}_data.csv (path, speakerId, transcription, action, object, location) and "
        "wavs/speakers/*/*.wav",
        {"train": 23_132, "dev": 3_118, "test": 3_793},
        "utterances, 31 intents",
        "Fluent Speech Commands Public License",
        "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research",
        "Lugosch et al. 2019, arXiv:1904.03670",
    ),
    Published(
        "slurp",
        speech.read_slurp,
        "[dataset/slurp/]{train,devel,test}.jsonl (sentence, intent, recordings) and [audio/]slurp_real/*.flac",
        {"dev": 8_690, "test": 13_078},
        "recordings",
        "CC BY 4.0 (text), CC BY-NC 4.0 (audio)",
        "https://github.com/pswietojanski/slurp",
        "Bastianelli et al. 2020, arXiv:2011.13205",
    ),
    Published(
        "speech-commands",
        speech.read_speech_commands,
        "WORD/*.wav, validation_list.txt, testing_list.txt (version 0.02)",
        {"dev": 9_981, "test": 11_005},
        "one-word recordings",
        "CC BY 4.0",
        "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "Warden 2018, arXiv:1804.03209",
    ),
    Published(
        "expresso",
        speech.read_expresso,
        "audio_48khz/read/SPEAKER/STYLE/base/*.wav, read_transcriptions.txt, splits/{train,dev,test}.txt",
        {},
        "read utterances in the styles happy, sad and default",
        "CC BY-NC 4.0",
        "https://speechbot.github.io/expresso",
        "Nguyen et al. 2023, arXiv:2308.05725. The selection behind Spirit LM's 1020, 60 and 54 is not published",
    ),
    Published(
        "emov",
        speech.read_emov,
        "SPEAKER/EMOTION/*.wav or SPEAKER_EMOTION/*.wav of bea, jenie and sam; cmuarctic.data for the sentences",
        {},
        "utterances, amused, angry and neutral",
        "EmoV-DB License (non-commercial)",
        "https://www.openslr.org/115",
        "Adigwe et al. 2018, arXiv:1806.09514. Spirit LM's 1053, 351 and 351 are a random 60/20/20 of unknown seed",
    ),
    Published(
        "sentiment",
        speech.read_sentiment,
        "a csv with columns label and text, audio or both, and optionally id and split (as for EXPRESSO-ASR, whose "
        "transcripts are not published)",
        licence="as the recordings",
        url="your own transcripts",
    ),
    Published(
        "intents",
        speech.read_intents,
        "a csv with columns path and label, and optionally text, id and split",
        licence="as the recordings",
        url="your own recordings",
    ),
)

PUBLISHED: dict[str, Published] = {one.name: one for one in _ALL}
"""By the name that `wordweave testset` uses."""
