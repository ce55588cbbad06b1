"""A model's identity changes with whatever reaches a vector.

Changes are made to a model that an encoder watches, because that is where missing one gives wrong
vectors: after each, the encoder's vectors must be the changed model's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers, processors

from embstore import CachedEncoder, EmbeddingStore
from embstore.fingerprint import fingerprint

TEXTS = ["The CAT sat on the mat", "docstring of a café: " + "many words " * 20, "one"]
PROMPT = "query: "


@pytest.fixture(scope="module")
def two_layers(minilm: Any) -> Any:
    """The first third of MiniLM: as real, and three times as fast."""
    model = copy.deepcopy(minilm)
    transformer(model).encoder.layer = transformer(model).encoder.layer[:2]
    return model


@pytest.fixture
def own(two_layers: Any) -> Any:
    """A model that a test may change."""
    return copy.deepcopy(two_layers)


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make()


def transformer(model: Any) -> Any:
    return model[0].auto_model


def weight(model: Any) -> Any:
    return transformer(model).encoder.layer[1].output.dense.weight


@torch.no_grad()
def add_in_place(model: Any) -> None:
    weight(model)[:192].add_(0.01)  # of all alike, the layer's norm would leave nothing


@torch.no_grad()
def one_number_in_place(model: Any) -> None:
    transformer(model).embeddings.LayerNorm.bias[5] += 1.0


def through_data(model: Any) -> None:
    weight(model).data.mul_(1.1)


def through_numpy(model: Any) -> None:
    array = weight(model).detach().numpy()
    array *= 1.1


def other_data(model: Any) -> None:
    weight(model).data = weight(model).data * 1.1


def other_parameter(model: Any) -> None:
    dense = transformer(model).encoder.layer[1].output.dense
    dense.weight = torch.nn.Parameter(dense.weight.detach() * 1.1)


def load_weights(model: Any) -> None:
    model.load_state_dict({key: value * 1.01 for key, value in model.state_dict().items()})


def optimizer_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(model.preprocess(TEXTS))["sentence_embedding"]
    output[:, 0].sum().backward()
    optimizer.step()


def fewer_layers(model: Any) -> None:
    transformer(model).encoder.layer = transformer(model).encoder.layer[:1]


def shorter(model: Any) -> None:
    model.max_seq_length = 8


def to_half(model: Any) -> None:
    model.half()


def to_bfloat16(model: Any) -> None:
    model.to(torch.bfloat16)


def append_module(model: Any) -> None:
    from sentence_transformers.base.modules import Dense

    model.append(seeded(lambda: Dense(384, 64)))


def replace_module(model: Any) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    model[1] = Pooling(384, pooling_mode="cls")


def remove_module(model: Any) -> None:
    del model[2]


def pooling_mode(model: Any) -> None:
    model[1].pooling_mode = "max"


def exclude_prompt(model: Any) -> None:
    model.set_pooling_include_prompt(False)


def replace_tokenizer(model: Any) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    model[0].processor = tokenizer


def tokenizer_normalizer(model: Any) -> None:
    model.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


def tokenizer_post_processor(model: Any) -> None:
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")


def padding_side(model: Any) -> None:
    model.tokenizer.padding_side = "left"


def truncation_side(model: Any) -> None:
    model.max_seq_length = 16  # before and after alike, see TestChanges
    model.tokenizer.truncation_side = "left"


def added_tokens(model: Any) -> None:
    model.tokenizer.add_tokens(["docstring"])
    seeded(lambda: transformer(model).resize_token_embeddings(len(model.tokenizer)))


def processing_replaced(model: Any) -> None:
    model[0].processing_kwargs = {"text": {"max_length": 8, "truncation": True}}


def processing_edited(model: Any) -> None:
    model[0].processing_kwargs["text"] = {"max_length": 8, "truncation": True}


def hook_on_module(model: Any) -> None:
    def double(_: Any, __: Any, output: dict[str, Any]) -> dict[str, Any]:
        return {**output, "sentence_embedding": output["sentence_embedding"] * 2}

    model[2].register_forward_hook(double)


def hook_deep_inside(model: Any) -> None:
    layer = transformer(model).encoder.layer[-1].output
    layer.register_forward_hook(lambda _, __, output: output * torch.linspace(0, 1, 384))


def hook_on_model(model: Any) -> None:
    def negate(_: Any, __: Any, output: dict[str, Any]) -> dict[str, Any]:
        return {**output, "sentence_embedding": -output["sentence_embedding"]}

    model.register_forward_hook(negate)


def hook_before_module(model: Any) -> None:
    def negate(_: Any, inputs: tuple[dict[str, Any]]) -> tuple[dict[str, Any]]:
        return ({**inputs[0], "sentence_embedding": -inputs[0]["sentence_embedding"]},)

    model[2].register_forward_pre_hook(negate)


def replaced_forward(model: Any) -> None:
    usual = model[1].forward

    def forward(features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features = usual(features, **kwargs)
        return {**features, "sentence_embedding": -features["sentence_embedding"]}

    model[1].forward = forward


CHANGES = [
    add_in_place,
    one_number_in_place,
    through_data,
    through_numpy,
    other_data,
    other_parameter,
    load_weights,
    optimizer_step,
    fewer_layers,
    shorter,
    to_half,
    to_bfloat16,
    append_module,
    replace_module,
    remove_module,
    pooling_mode,
    exclude_prompt,
    replace_tokenizer,
    tokenizer_normalizer,
    tokenizer_post_processor,
    padding_side,
    truncation_side,
    added_tokens,
    processing_replaced,
    processing_edited,
    hook_on_module,
    hook_deep_inside,
    hook_on_model,
    hook_before_module,
    replaced_forward,
]


def assert_follows(encoder: CachedEncoder, model: Any, change: Callable[[Any], None]) -> None:
    """After a change, an encoder that is warm gives what the changed model gives."""
    arguments = {"prompt": PROMPT}
    model.eval()  # as the first call of encode does; no change of its own shall hide the other
    before = encoder.namespace(**arguments)
    vectors = encoder.encode(TEXTS, **arguments)
    change(model)
    expected = model.encode(TEXTS, **arguments)
    assert expected.shape != vectors.shape or not np.allclose(expected, vectors, atol=1e-4), (
        "the change reaches no vector, and shows nothing"
    )
    got = encoder.encode(TEXTS, **arguments)
    assert got.dtype == expected.dtype
    tolerance = 1e-6 if model.dtype == torch.float32 else 1e-2
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    after = encoder.namespace(**arguments)
    assert after.fingerprint != before.fingerprint
    assert after.id != before.id
    assert encoder.encode(TEXTS, **arguments).tobytes() == got.tobytes()


class TestChanges:
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_of_a_model(
        self, own: Any, store: EmbeddingStore, change: Callable[[Any], None]
    ) -> None:
        if change is truncation_side:
            own.max_seq_length = 16
        assert_follows(CachedEncoder(own, store), own, change)

    def test_hooks_of_one_origin(self, own: Any, store: EmbeddingStore) -> None:
        # Closures of one function have one name; what they hold decides the vector.
        def scale(factor: float) -> Callable[[Any], None]:
            def hook(_: Any, __: Any, output: dict[str, Any]) -> dict[str, Any]:
                return {**output, "sentence_embedding": output["sentence_embedding"] * factor}

            return lambda model: model[2].register_forward_hook(hook)

        encoder = CachedEncoder(own, store)
        expected = {}
        for factor in (2.0, 3.0):
            model = copy.deepcopy(own)
            scale(factor)(model)
            expected[factor] = model.encode(TEXTS)
            got = CachedEncoder(model, store).encode(TEXTS)
            np.testing.assert_allclose(got, expected[factor], rtol=0, atol=1e-6)
        np.testing.assert_allclose(encoder.encode(TEXTS) * 2, expected[2.0], rtol=0, atol=1e-6)

    def test_a_hook_taken_away_again(self, own: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(own, store)
        before = encoder.encode(TEXTS)
        handle = own[2].register_forward_hook(lambda *_: {"sentence_embedding": None})
        handle.remove()
        assert encoder.encode(TEXTS).tobytes() == before.tobytes()
        assert store.stats().misses == len(TEXTS)

    @pytest.mark.parametrize("kind", ["pooling", "tokenizer", "length"])
    def test_inside_a_route(self, own: Any, static: Any, store: EmbeddingStore, kind: str) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Router

        router = Router.for_query_document([static[0]], [own[0], own[1]])
        model = SentenceTransformer(modules=[router], device="cpu")
        encoder = CachedEncoder(model.eval(), store)
        first = encoder.encode_document(TEXTS)
        if kind == "pooling":
            own[1].pooling_mode = "max"
        elif kind == "tokenizer":
            tokenizer_normalizer(own)
        else:
            own[0].max_seq_length = 8
        expected = model.encode_document(TEXTS)
        assert not np.allclose(first, expected, atol=1e-4)
        np.testing.assert_allclose(encoder.encode_document(TEXTS), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", ["normalizer", "truncation", "replaced"])
    def test_of_a_bare_tokenizer(self, static: Any, store: EmbeddingStore, kind: str) -> None:
        def change(model: Any) -> None:
            tokenizer = model[0].tokenizer
            if kind == "normalizer":
                tokenizer.normalizer = normalizers.NFC()
            elif kind == "truncation":
                tokenizer.enable_truncation(4)
            else:
                model[0].tokenizer = copy.deepcopy(tokenizer)
                model[0].tokenizer.normalizer = normalizers.NFC()

        model = copy.deepcopy(static)
        assert_follows(CachedEncoder(model, store), model, change)

    def test_too_small_to_be_seen_until_asked(self, own: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(own, store)
        before = encoder.namespace()
        transformer(own).embeddings.LayerNorm.bias.data[5] += 1.0
        encoder.refresh()
        assert encoder.namespace().id != before.id
        got, expected = encoder.encode(TEXTS), own.encode(TEXTS)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        "switch",
        [
            lambda: torch.autocast("cpu", torch.bfloat16),
            lambda: torch.autocast("cpu", torch.float16),
        ],
        ids=["autocast_bfloat16", "autocast_float16"],
    )
    def test_switches_of_torch(self, minilm: Any, store: EmbeddingStore, switch: Any) -> None:
        encoder = CachedEncoder(minilm, store)
        plain = encoder.encode(TEXTS)
        with switch():
            expected, got = minilm.encode(TEXTS), encoder.encode(TEXTS)
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-2)
        assert got.tobytes() != plain.tobytes()
        assert encoder.encode(TEXTS).tobytes() == plain.tobytes()


class TestFunctionsAndNumbers:
    """What a function calls and holds, and what numpy's scalars are, decide a fingerprint too."""

    @pytest.mark.parametrize("kind", ["names", "keyword", "partial", "bound"])
    def test_hooks_that_differ_in_one_thing(self, static: Any, kind: str) -> None:
        class Factor:
            def __init__(self, value: float) -> None:
                self.value = value

            def hook(self, _: Any, __: Any, output: Any) -> Any:
                return output

        def keyword(factor: float) -> Callable[..., Any]:
            def hook(_: Any, __: Any, output: Any, *, by: float = factor) -> Any:
                return output

            return hook

        pairs: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
            "names": (lambda _, __, output: output.relu(), lambda _, __, output: output.tanh()),
            "keyword": (keyword(1.0), keyword(2.0)),
            "partial": (
                functools.partial(keyword(1.0), by=1.0),
                functools.partial(keyword(1.0), by=2.0),
            ),
            "bound": (Factor(1.0).hook, Factor(2.0).hook),
        }
        taken = set()
        for hook in pairs[kind]:
            model = copy.deepcopy(static)
            model[0].register_forward_hook(hook)
            taken.add(fingerprint(model))
        assert len(taken) == 2

    def test_scalars_of_numpy(self, static: Any) -> None:
        taken = set()
        for scale in (np.float32(1), np.float32(5), np.float64(5)):
            model = copy.deepcopy(static)
            model[0].scale = scale
            taken.add(fingerprint(model))
        assert len(taken) == 3
