"""The file that a model is kept as: what it says of itself, and its body in the format of its framework.

Belongs here: the envelope and its checks. Not here: what a body means (the trainers), where files are kept
(`resources/model_registry.py`).

No body is ever unpickled: LightGBM's is its text, torch's is read by `weights_only`, scikit-learn's by skops with a
list of trusted types.
"""

import base64
import binascii
import json
from dataclasses import dataclass


class ModelMismatch(ValueError):
    """A model file that is not what it is taken for; the message says what differs and what to rebuild."""


@dataclass(frozen=True)
class Signature:
    """What a model reads and gives: its features in their order, and whether it gives a number or a probability."""

    features: tuple[str, ...]
    task: str

    def differs_from(self, other: "Signature") -> str | None:
        """In words, how `other` differs; None if it does not."""
        if self.task != other.task:
            return f"it is a model for {self.task}, not for {other.task}"
        if self.features == other.features:
            return None
        missing = [name for name in other.features if name not in self.features]
        more = [name for name in self.features if name not in other.features]
        parts = [f"it lacks {', '.join(missing)}"] if missing else []
        parts += [f"it reads {', '.join(more)} besides"] if more else []
        return " and ".join(parts) or f"it reads the features in the order {', '.join(self.features)}"


@dataclass(frozen=True)
class ModelFile:
    """A model as it is stored; equal models have equal text."""

    framework: str
    signature: Signature
    body: bytes

    @property
    def text(self) -> str:
        """The file: JSON, with the body as it is where it is text, in base 64 otherwise."""
        try:
            encoding, body = "utf-8", self.body.decode()
        except UnicodeDecodeError:
            encoding, body = "base64", base64.b64encode(self.body).decode()
        content = {
            "framework": self.framework,
            "task": self.signature.task,
            "features": list(self.signature.features),
            "encoding": encoding,
            "body": body,
        }
        return json.dumps(content, indent=1)

    @classmethod
    def of_text(cls, text: str, called: str = "the text") -> "ModelFile":
        """The file that `text` is.

        Raises:
            ModelMismatch: it is none; the message begins with what it is `called`.
        """
        try:
            content = json.loads(text)
            body = content["body"]
            return cls(
                content["framework"],
                Signature(tuple(content["features"]), content["task"]),
                base64.b64decode(body, validate=True) if content["encoding"] == "base64" else body.encode(),
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ModelMismatch(
                f"{called} is not a model file of this SDK ({type(error).__name__}: {error}); materialize the "
                "candidate again"
            ) from error
