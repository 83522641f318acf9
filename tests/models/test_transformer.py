"""Forms of the residual stream against small implementations written from their papers."""

import math

import pytest
import torch
import torch.nn.functional as F

from resnets.config import ConfigError, TransformerSpec
from resnets.models.transformer.connections import CONNECTIONS, sinkhorn
from resnets.models.transformer.network import Transformer

FORMS = tuple(CONNECTIONS)
WIDTH, DEPTH, STREAMS, CHARACTERS = 8, 2, 3, 11


def network(form, **fields):
    torch.manual_seed(0)
    spec = TransformerSpec(
        depth=DEPTH, width=WIDTH, heads=2, context=6, vocabulary=CHARACTERS, residual=form,
        streams=STREAMS, **fields,
    )  # fmt: skip
    model = Transformer(spec).eval().double()
    with torch.no_grad():  # what starts at zero or one must not hide an error
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def normed(x, norm):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def rms(x):
    return x / (x.square().mean() + torch.finfo(x.dtype).eps).sqrt()


def sublayer(layer, x):
    """Attention (Vaswani et al. 2017, eq. 1) or the feed-forward network, for one text (T, C)."""
    if hasattr(layer, "fc1"):
        return layer.fc2(F.gelu(layer.fc1(x)))
    out = torch.zeros_like(x)
    query, key, value = layer.qkv(x).split(WIDTH, -1)
    size = WIDTH // layer.heads
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(x)):
            scores = key[: t + 1, part] @ query[t, part] / math.sqrt(size)
            out[t, part] = scores.softmax(0) @ value[: t + 1, part]
    return layer.out(out)


def hyper(unit, streams):
    """Zhu et al. 2024, equations 1 and 5 to 10, for each position of streams (T, n, C)."""
    mixed, write, read = [], [], []
    for h in streams:
        bar = normed(h, unit.stream_norm)
        alpha = unit.alpha.T + unit.alpha_scale * (bar @ unit.alpha_weight).tanh()
        write.append(unit.beta + unit.beta_scale * (bar @ unit.beta_weight).tanh()[:, 0])
        read.append(alpha[:, 0] @ h)
        mixed.append(alpha[:, 1:].T @ h)
    y = sublayer(unit.layer, normed(torch.stack(read), unit.norm))
    return torch.stack([m + b[:, None] * o for m, b, o in zip(mixed, write, y, strict=True)])


def manifold(unit, streams):
    """Xie et al. 2025, equations 7 to 9: Sinkhorn and Knopp's iteration on each position."""
    n, mixed, write, read = STREAMS, [], [], []
    for h in streams:
        raw = unit.weight.weight @ rms(h.flatten())
        scale = unit.scale
        mix = (scale[2] * raw[2 * n :].reshape(n, n) + unit.mix).exp()
        for _ in range(20):
            mix = mix / mix.sum(0)
            mix = mix / mix.sum(1)[:, None]
        read.append(torch.sigmoid(scale[0] * raw[:n] + unit.read) @ h)
        write.append(2 * torch.sigmoid(scale[1] * raw[n : 2 * n] + unit.write))
        mixed.append(mix @ h)
    y = sublayer(unit.layer, normed(torch.stack(read), unit.norm))
    return torch.stack([m + b[:, None] * o for m, b, o in zip(mixed, write, y, strict=True)])


def attend(unit, outputs):
    """Kimi Team 2026, full AttnRes: softmax over depth of query . RMSNorm(output)."""
    found = []
    for t in range(outputs[0].shape[0]):
        scores = [unit.query @ (rms(each[t]) * unit.key_norm.weight) for each in outputs]
        weights = torch.stack(scores).softmax(0)
        found.append(sum(w * each[t] for w, each in zip(weights, outputs, strict=True)))
    return torch.stack(found)


def reference(model, text):
    """Logits (T, K) of one text (T,)."""
    form = model.spec.residual
    x = model.embedding.weight[text] + model.position[: len(text)]
    streams, outputs = x[:, None].repeat(1, STREAMS, 1), [x]
    alpha = (2 * DEPTH) ** 0.25 if form == "deepnorm" else 1
    for unit in model.sublayers:
        match form:
            case "none":
                x = sublayer(unit.layer, normed(x, unit.norm))
            case "pre-norm":
                x = x + sublayer(unit.layer, normed(x, unit.norm))
            case "post-norm" | "deepnorm":
                x = normed(alpha * x + sublayer(unit.layer, x), unit.norm)
            case "rezero":
                x = x + unit.scale.weight * sublayer(unit.layer, x)
            case "hyper":
                streams = hyper(unit, streams)
            case "mhc":
                streams = manifold(unit, streams)
            case "attention":
                outputs.append(sublayer(unit.layer, normed(attend(unit.read, outputs), unit.norm)))
    if form in ("hyper", "mhc"):
        x = streams.sum(1)
    if form == "attention":
        x = attend(model.read, outputs)
    if form not in ("post-norm", "deepnorm", "rezero"):
        x = normed(x, model.norm)
    return model.head(x)


@pytest.mark.parametrize("form", FORMS)
def test_forward_is_that_of_the_paper(form):
    model = network(form)
    texts = torch.randint(0, CHARACTERS, (2, 5))
    with torch.no_grad():
        found = model(texts)
        expected = torch.stack([reference(model, text) for text in texts])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_are_those_counted_by_hand(form):
    c, n, k = WIDTH, STREAMS, CHARACTERS
    layers = DEPTH * (4 * c * c + 4 * c + 8 * c * c + 5 * c)
    outside = k * c + 6 * c + (c * k + k)
    of_form = {
        "rezero": 1,
        "hyper": 2 * c + 2 * c + (c + n) * (n + 2) + 2,
        "mhc": 2 * c + n * (n + 2) * (n * c + 1) + 3,
        "attention": 4 * c,
    }
    expected = layers + outside + 2 * DEPTH * of_form.get(form, 2 * c)
    expected += {"attention": 4 * c, "post-norm": 0, "deepnorm": 0, "rezero": 0}.get(form, 2 * c)
    assert sum(each.numel() for each in network(form).parameters()) == expected


@pytest.mark.parametrize("form", FORMS)
def test_later_characters_change_nothing_before_them(form):
    model, text = network(form), torch.randint(0, CHARACTERS, (1, 6))
    other = text.clone()
    other[0, 4:] = (other[0, 4:] + 1) % CHARACTERS
    torch.testing.assert_close(model(text)[0, :4], model(other)[0, :4])


def test_hyper_connections_start_as_the_pre_norm_network():
    """Zhu et al. 2024, equation 14: read one stream, write to all, keep all."""
    texts = torch.randint(0, CHARACTERS, (2, 5))
    found = {}
    for form in ("pre-norm", "hyper"):
        torch.manual_seed(0)
        spec = TransformerSpec(
            depth=2, width=8, heads=2, context=6, vocabulary=CHARACTERS, residual=form
        )
        found[form] = Transformer(spec)
    missing, _ = found["hyper"].load_state_dict(found["pre-norm"].state_dict(), strict=False)
    assert all("alpha" in name or "beta" in name or "stream" in name for name in missing)
    torch.testing.assert_close(found["hyper"](texts), found["pre-norm"](texts), atol=1e-4, rtol=0)


def test_mixing_is_doubly_stochastic():
    mix = sinkhorn(torch.randn(5, 4, 4))
    for dim in (-1, -2):
        torch.testing.assert_close(mix.sum(dim), torch.ones(5, 4), atol=1e-3, rtol=0)


def test_rezero_starts_as_the_identity_and_deepnorm_with_smaller_weights():
    spec = {"depth": 2, "width": 64, "heads": 2, "context": 6, "vocabulary": CHARACTERS}
    first, *_, last = Transformer(TransformerSpec(residual="rezero", **spec)).states(
        torch.zeros(1, 3, dtype=torch.int64)
    )
    assert torch.equal(first, last)
    torch.manual_seed(0)
    plain = Transformer(TransformerSpec(residual="post-norm", **spec)).state_dict()
    torch.manual_seed(0)
    deep = Transformer(TransformerSpec(residual="deepnorm", **spec)).state_dict()
    for name in ("out.weight", "qkv.weight", "fc1.weight", "fc2.weight"):
        number = 0 if "fc" not in name else 1
        one, other = (each[f"sublayers.{number}.layer.{name}"] for each in (plain, deep))
        torch.testing.assert_close(other[-64:], one[-64:] * 16**-0.25)  # (8 * 2)^(-1/4)
    query = "sublayers.0.layer.qkv.weight"
    assert torch.equal(plain[query][:128], deep[query][:128])


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"transformer\.heads"):
        TransformerSpec(width=10, heads=4)
