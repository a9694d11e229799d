"""`mdl lsp` through pytest-lsp, a client of the Language Server Protocol that others keep.

usage: pytest test_lsp.py, with MDL (the program), MODELFILES (a folder of Modelfiles) and STORE in the environment
"""

import json
import os
import pathlib
import random
import re
import subprocess

import pytest
import pytest_lsp
from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient

MDL = os.environ["MDL"]
STORE = os.environ["STORE"]
SEVERITY = {"error": 1, "warning": 2, "note": 3}


@pytest_lsp.fixture(config=ClientServerConfig(server_command=[MDL, "--store", STORE, "lsp"]))
async def client(lsp_client: LanguageClient):
    await lsp_client.initialize_session(types.InitializeParams(capabilities=types.ClientCapabilities()))
    yield
    await lsp_client.shutdown_session()


class Document:
    """A Modelfile that is open in the editor, and saved nowhere."""

    def __init__(self, client, path, text=""):
        self.client, self.path, self.uri, self.version, self.text = client, path, path.as_uri(), 1, text
        item = types.TextDocumentItem(uri=self.uri, language_id="modelfile", version=1, text=text)
        client.text_document_did_open(types.DidOpenTextDocumentParams(text_document=item))

    def change(self, text):
        self.version, self.text = self.version + 1, text
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(
            text_document=types.VersionedTextDocumentIdentifier(uri=self.uri, version=self.version),
            content_changes=[types.TextDocumentContentChangeWholeDocument(text=text)]))

    async def diagnostics(self):
        """Of this state of it: the server answers in order."""
        await self.symbols()
        return self.client.diagnostics[self.uri]

    async def symbols(self):
        return await self.client.text_document_document_symbol_async(types.DocumentSymbolParams(text_document=self.identifier()))

    def identifier(self):
        return types.TextDocumentIdentifier(uri=self.uri)

    def place(self, line, character):
        return {"text_document": self.identifier(), "position": types.Position(line=line, character=character)}

    async def labels(self, line, character):
        found = await self.client.text_document_completion_async(types.CompletionParams(**self.place(line, character)))
        return [item.label for item in found]

    async def hover(self, line, character):
        found = await self.client.text_document_hover_async(types.HoverParams(**self.place(line, character)))
        return found and found.contents.value

    async def definition(self, line, character):
        return await self.client.text_document_definition_async(types.DefinitionParams(**self.place(line, character)))

    async def formatted(self):
        """The text after formatting; None where there is none."""
        edits = await self.client.text_document_formatting_async(types.DocumentFormattingParams(
            text_document=self.identifier(), options=types.FormattingOptions(tab_size=4, insert_spaces=True)))
        if edits is None:
            return None
        return edits[0].new_text if edits else self.text


def check(path):
    """What `mdl check` says: (severity, message, line, column), as the protocol counts them."""
    run = subprocess.run([MDL, "--store", STORE, "check", "--message-format", "json", path], capture_output=True)
    assert run.returncode in (0, 1), run
    # Offsets are those of the text without its byte order mark.
    whole = path.read_bytes()
    mark = 3 if whole.startswith(b"\xef\xbb\xbf") else 0
    found = []
    for line in run.stderr.decode().splitlines():
        d = json.loads(line)
        lines = re.split("\r\n|\r|\n", whole[: mark + d["byte_start"]].decode() if "byte_start" in d else "")
        column = len(lines[-1].encode("utf-16-le")) // 2
        found.append((d["severity"], d["message"], len(lines) - 1, column))
    return found


async def in_step(document):
    """Diagnostics are those of `mdl check` on the same text."""
    document.path.write_bytes(document.text.encode())
    expected = check(document.path)
    shown = []
    for d in await document.diagnostics():
        severity = next(name for name, number in SEVERITY.items() if number == d.severity)
        shown.append((severity, d.message.split("\n")[0], d.range.start.line, d.range.start.character))
    assert sorted(shown) == sorted(expected), document.text
    return expected


@pytest.mark.asyncio
async def test_diagnostics_are_those_of_check(client, tmp_path):
    document = Document(client, tmp_path / "Modelfile", "FROM x\nPARAMETER temprature 1\n")
    found = await document.diagnostics()
    assert [d.range.start.line for d in found if d.severity == 1] == [1]
    assert "temperature" in " ".join(d.message for d in found)
    document.change("FROM x\nPARAMETER temperature 1\n")
    assert not [d for d in await document.diagnostics() if d.severity == 1]


@pytest.mark.asyncio
async def test_completion(client, tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    (tmp_path / "lora").mkdir()
    document = Document(client, tmp_path / "Modelfile", "FROM \nPARAMETER te\nPARAMETER use_mmap \nMESSAGE \n# FR\nSYSTEM \"\"\"a\nFR\n\"\"\"\nAD")
    assert {"weights.gguf", "lora/", "story:latest"} <= set(await document.labels(0, 5))
    assert {"temperature", "top_k", "stop"} <= set(await document.labels(1, 12))
    assert "mirostat" not in await document.labels(1, 12)
    assert await document.labels(2, 19) == ["true", "false"]
    assert await document.labels(3, 8) == ["system", "user", "assistant"]
    assert await document.labels(4, 4) == []
    assert await document.labels(6, 2) == []
    assert {"FROM", "ADAPTER", "SYSTEM"} <= set(await document.labels(8, 2))


@pytest.mark.asyncio
async def test_hover(client, tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    document = Document(client, tmp_path / "Modelfile", "FROM ./weights.gguf\nPARAMETER top_p 0.5\n")
    assert "what the model is made from" in (await document.hover(0, 1)).lower()
    assert "4 bytes" in await document.hover(0, 8)
    top_p = await document.hover(1, 12)
    assert "a number" in top_p and "from 0 to 1" in top_p and "0.9" in top_p
    assert await document.hover(2, 0) is None


@pytest.mark.asyncio
async def test_definition(client, tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    document = Document(client, tmp_path / "Modelfile", "FROM ./weights.gguf\nADAPTER ./lora 0.5\nSYSTEM x\n")
    assert (await document.definition(0, 8)).uri == (tmp_path / "weights.gguf").resolve().as_uri()
    assert (await document.definition(1, 10)).uri == (tmp_path / "lora/adapter_config.json").resolve().as_uri()
    assert await document.definition(2, 8) is None


@pytest.mark.asyncio
async def test_symbols_and_formatting(client, tmp_path):
    document = Document(client, tmp_path / "Modelfile", "from   x\n\n\nparameter stop  a\nSYSTEM \"\"\"\none\ntwo\"\"\"\n")
    symbols = await document.symbols()
    assert [(s.name, s.detail) for s in symbols] == [("FROM", "x"), ("PARAMETER stop", "a"), ("SYSTEM", "one")]
    assert symbols[2].range.end.line == 6
    assert (await document.formatted()).startswith("FROM x\n\nPARAMETER stop a\n")
    document.change("FROM x\nnonsense\n")
    assert await document.formatted() is None


@pytest.mark.asyncio
async def test_edits_never_get_out_of_step(client, tmp_path):
    random.seed(7)
    sources = sorted(p for p in pathlib.Path(os.environ["MODELFILES"]).rglob("*") if p.is_file())
    texts = []
    for path in sources:
        try:
            # Text modes would change line ends.
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) < 4096 and "\0" not in text:
            texts.append(text)
    assert len(texts) > 50
    document = Document(client, tmp_path / "Modelfile", "")
    pieces = ["\n", "FROM x\n", '"""', '"', "PARAMETER top_k 1\n", "é", "\U0001f600", " ", "#", "\r\n", "\r", "MESSAGE user hi\n", "~"]
    said = 0
    for _ in range(100):
        text = random.choice(texts)
        at = random.randint(0, len(text))
        text = text[:at] + random.choice(pieces) + text[at + random.choice([0, 0, 1, 5]):]
        document.change(text)
        said += len(await in_step(document))
        formatted = await document.formatted()
        run = subprocess.run([MDL, "--store", STORE, "fmt", "--stdout", document.path], capture_output=True)
        assert (formatted is None) == (run.returncode != 0), text
        assert formatted is None or formatted.encode() == run.stdout, text
    assert said > 50
