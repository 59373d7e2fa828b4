"""Style tokens as Spirit LM's release makes them, from a wav2vec2 classifier that the user has."""

from pathlib import Path

import numpy as np

from corpus.records import SAMPLE_RATE
from units.hubert.checkpoints import read_json
from units.tensor_files import hash_tensors, load_weights_only, read_safetensors
from units.waveform import check_waveform

TOKEN_RATE = 1.0  # Hz


class Wav2Vec2Style:
    """Style tokens as Spirit LM's release makes them: a wav2vec2 classifier's best label per 50 frames (1 s).

    The waveform is normalised to mean 0 and variance 1 and encoded 100 s at a time; hidden states go through the
    projector, are averaged over blocks of 50 (the last one over the remainder) and classified.

    Source: SPEC 3 and 11. Its tokens depend on the whole recording and hardly change inside it (PEERS).
    """

    rate = TOKEN_RATE

    def __init__(self, folder: str | Path):
        import torch
        from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

        folder = Path(folder)
        config = Wav2Vec2Config(**read_json(folder / "config.json"))
        if read_json(folder / "config.json").get("model_type") != "wav2vec2" or config.use_weighted_layer_sum:
            raise ValueError(f"{folder / 'config.json'}: need a wav2vec2 without a weighted sum of layers")
        file = folder / "model.safetensors"
        if file.exists():
            weights, _ = read_safetensors(file)
        else:
            file = folder / "pytorch_model.bin"
            weights = load_weights_only(file)
        model = Wav2Vec2ForSequenceClassification(config).eval().requires_grad_(False)
        known = model.state_dict()
        old = {"conv.weight_g": "conv.parametrizations.weight.original0"}
        old["conv.weight_v"] = "conv.parametrizations.weight.original1"
        for before, after in old.items():
            weights = {name.replace(before, after): tensor for name, tensor in weights.items()}
        wrong = [name for name, x in known.items() if name not in weights or weights[name].shape != x.shape]
        wrong = [name for name in wrong if not name.endswith("masked_spec_embed")]  # only for training
        if wrong:
            raise ValueError(
                f"{file}: need all weights of its configuration, {wrong[0]} is missing or differs"
            )
        model.load_state_dict(
            {name: weights[name].float() for name in known if name in weights}, strict=False
        )
        self._model, self._torch = model, torch
        self.codes = len(weights["classifier.bias"])
        self.hash = hash_tensors({name: weights[name] for name in known if name in weights})
        self.provenance = {"imported": str(folder.name), "weights": self.hash}

    def encode(self, waveform: np.ndarray, speaker_mean: np.ndarray | None = None) -> np.ndarray:
        """(T,) float32 at 16 kHz -> (S,) int16, one token per started 50 frames of 20 ms; none for under 25 ms."""
        waveform = check_waveform(waveform)
        chunk = 100 * SAMPLE_RATE
        tokens = [self._encode(waveform[start : start + chunk]) for start in range(0, len(waveform), chunk)]
        return np.concatenate([np.zeros(0, np.int16), *tokens])

    def _encode(self, waveform: np.ndarray) -> np.ndarray:
        torch, model = self._torch, self._model
        if len(waveform) < 400:
            return np.zeros(0, np.int16)
        centred = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        with torch.inference_mode():
            states = model.projector(model.wav2vec2(torch.from_numpy(centred)[None]).last_hidden_state[0])
            pooled = torch.stack([block.mean(dim=0) for block in states.split(50)])
            return model.classifier(pooled).argmax(dim=1).numpy().astype(np.int16)
