"""How one case is written."""

import dataclasses
import json

import transformers

from . import checkpoint, text, vocabulary

NORM = {"norm": 1.0, "final": 1.0, "embedding": 0.3, "head": 0.3, "matrix": 1.5}

FULL_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


@dataclasses.dataclass(kw_only=True)
class Case:
    """A decoder: a folder as it is published, and `reference.json`."""

    cls: str
    config: dict
    text: object
    pre: str = "default"
    dtype: str = "bf16"
    shards: int = 1
    gain: dict = dataclasses.field(default_factory=lambda: NORM)
    first: tuple = ()
    prompts: dict = dataclasses.field(default_factory=lambda: {"prompt": 64})
    generation: dict = dataclasses.field(default_factory=dict)
    converter: tuple = ()  # more options for the converter
    published_config: bool = False  # the converter is to read config.json itself, not through the library's newer class
    refusal: str = ""  # why the converter refuses this one, where its own words do not say
    name: str = ""

    def tensors(self, folder):
        """The checkpoint's tensors, drawn for the names and shapes that the library itself would save."""
        configuration = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, self.cls)(configuration)
        return checkpoint.draw_all(self.name, checkpoint.saved_shapes(model), self.gain)

    def write_text(self, folder):
        files = self.text()
        for file, content in files.items():
            if isinstance(content, bytes):
                (folder / file).write_bytes(content)
            else:
                checkpoint.write_json(folder / file, content)
        checkpoint.write_json(folder / "tokenizer-cases.json", vocabulary.cases(folder))
        return files

    def write(self, folder):
        files = self.write_text(folder)
        kind = {"dtype" if "rope_parameters" in str(self.config) else "torch_dtype": FULL_NAMES[self.dtype]}
        checkpoint.write_json(folder / "config.json", {"architectures": [self.cls]} | dict(sorted((self.config | kind).items())))
        if self.generation:
            checkpoint.write_json(folder / "generation_config.json", self.generation)
        checkpoint.store(folder, self.tensors(folder), self.dtype, self.shards)
        self.write_reference(folder, files)

    def write_resaved(self, folder, model):
        """The configuration as today's library would write it: other names for some of the same facts."""
        resaved = json.loads(model.config.to_json_string()) | {"architectures": [self.cls]}
        checkpoint.write_json(folder / "config.resaved.json", with_dtype(resaved, FULL_NAMES[self.dtype]))

    def write_reference(self, folder, files, model=None):
        if model is None:
            model = checkpoint.load(folder, self.cls)
            self.write_resaved(folder, model)
        runs = {key: checkpoint.generate(model, f"{self.name}/{key}", n, self.first, text.ordinary(files)) for key, n in self.prompts.items()}
        main = runs.pop("prompt")
        checkpoint.write_json(folder / "reference.json", {"arithmetic": "float32, from the stored values"} | main | runs)


def with_dtype(config, dtype):
    """References are computed in float32; a file names the type that its tensors are stored as."""
    return {k: with_dtype(v, dtype) if isinstance(v, dict) else dtype if k == "dtype" else v for k, v in config.items()}
