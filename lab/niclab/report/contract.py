"""What machine-readable answers have in common: frozen models, their JSON, and a JSON Schema that is committed."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def like(cls, source: object, /, **others: Any) -> Self:
        """Made from what has attributes of the same names, and from others."""
        return cls(**{name: getattr(source, name) for name in cls.model_fields if name not in others}, **others)


class Document(Model):
    """A whole answer. What is in it stays; later versions may add keys."""

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @classmethod
    def contract(cls, title: str) -> str:
        """Its JSON Schema, as text; one that keys added later do not break."""
        document = cls.model_json_schema(by_alias=True, mode="serialization")
        document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        document["title"] = title
        for model in (document, *document["$defs"].values()):
            del model["additionalProperties"]
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
