"""`python -m benchmarks.networks [FAMILY ...]`: compare what is read of layers with what their own library
says that they give.

It writes the rows of docs/networks.md, each when it is done: of all networks, or of those families and
architectures. Weights are random: only the reading is compared. timm names a network's feature modules
(`feature_info`) and returns what each gives (`forward_intermediates`); transformers returns what each encoder
block gives (`hidden_states`).
"""

from __future__ import annotations

import argparse
import functools
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from actors import vision_libraries

vision_libraries.import_torchvision()

import timm  # noqa: E402

from actors.vision.networks.prefix import declared_prefix  # noqa: E402
from actors.vision.readout.taps import TappedModule  # noqa: E402
from benchmarks.architectures import ARCHITECTURES, IMAGE  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"

Verdict = Literal["equal", "without places", "refused", "different"]


@dataclass(frozen=True)
class Finding:
    """The comparison of one layer; `why` is the reason of a refusal, or what differs."""

    layer: str
    verdict: Verdict
    why: str = ""


def vivid(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module without parameters that silence a branch, as gates and scales of zero do."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim <= 1 or not parameter.any():
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator).to(parameter)
    return module.eval().requires_grad_(False)


def compare(
    tapped: TappedModule, batch: torch.Tensor, wanted: Mapping[str, torch.Tensor], behind: int = 0
) -> list[Finding]:
    """Compare what is read of layers with what a library says that they give, (N, C, h, w) or (N, T, C).

    A library may call a feature after another module than the one that gives it, or after a list of modules:
    then it is sought by its values among all that modules give. `behind` tokens follow the patches. Call in
    inference mode.
    """
    given = _given(tapped, batch)
    wanted = {
        name: want[:, : want.shape[1] - behind] if want.ndim == 3 else want for name, want in wanted.items()
    }
    sources = {name: _source(name, want, given) for name, want in wanted.items()}
    taken = {layer for layer in sources.values() if layer in tapped.taps}
    read: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Any:
        return lambda maps: read.update({layer: maps.clone()})

    if taken:
        tapped.run(batch, {layer: keep(layer) for layer in taken})
    return [_finding(name, sources[name], tapped, read, want) for name, want in wanted.items()]


def _given(tapped: TappedModule, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that every module gives at its last call, under the names that taps give them."""
    given: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            items = (
                output.items()
                if isinstance(output, Mapping)
                else enumerate(output)
                if isinstance(output, (list, tuple))
                else [(None, output)]
            )
            tensors = [
                (key, each)
                for key, each in items
                if isinstance(each, torch.Tensor) and each.ndim > 1 and len(each) == len(batch)
            ]
            for place, (key, each) in enumerate(tensors):
                given[f"{name}[{key}]" if place else name] = each.clone()

        return hook

    hooks = [child.register_forward_hook(keep(name)) for name, child in tapped.module.named_modules() if name]
    tapped.feed(batch)
    for hook in hooks:
        hook.remove()
    return given


def _source(name: str, want: torch.Tensor, given: dict[str, torch.Tensor]) -> str:
    """Return the layer that gives a feature: `name` if it does, else another, "" if no module does."""
    if name in given and _gives(given[name], want):
        return name
    return next((layer for layer, output in reversed(given.items()) if _gives(output, want)), "")


def _gives(output: torch.Tensor, want: torch.Tensor) -> bool:
    """Return whether `output` holds the values of `want`, in any order of its axes and after any prefix of
    tokens.
    """
    if output.ndim == 3 and want.ndim > 3 and output[0].numel() > want[0].numel():
        output = output[:, -want[0].numel() // output.shape[2] :]
    if output.ndim == want.ndim == 3 and output.shape[1] > want.shape[1]:
        output = output[:, : want.shape[1]]
    if output[0].numel() != want[0].numel():
        return False
    return torch.allclose(
        output.flatten(1).sort().values,
        want.flatten(1).sort().values,
        rtol=1e-4,
        atol=1e-5 * float(want.abs().max()),
    )


def _finding(
    name: str, layer: str, tapped: TappedModule, read: Mapping[str, torch.Tensor], want: torch.Tensor
) -> Finding:
    if not layer:
        return Finding(
            name, "refused", tapped.unreadable.get(name, "no module gives it with one row per image")
        )
    if layer not in read:
        return Finding(layer, "refused", tapped.unreadable.get(layer, "there is no such layer"))
    found, layout = read[layer], tapped.taps[layer].layout
    if want.ndim == 3:
        # Tokens as they come: taps drop the prefix.
        want = want[:, -found[0, 0].numel() :].transpose(1, 2).unflatten(2, found.shape[2:])
    placed = layout.grid is not None or found[0, 0].numel() == 1
    if want.ndim == 4 and want.shape[1] != found.shape[1] == want.shape[3]:
        want = want.movedim(-1, 1)
    n_more = found[0, 0].numel() - want[0, 0].numel()
    if not placed:
        # What timm gives as a grid follows the tokens that are no places.
        found, want = found.flatten(2)[:, :, max(n_more, 0) :].sort().values, want.flatten(2).sort().values
    if found.shape != want.shape:
        return Finding(layer, "different", f"{tuple(found.shape)} for {tuple(want.shape)}")
    # Both are the same operations in the same order; a layout that differs may change a kernel's last digits.
    tolerance = 64 * torch.finfo(want.dtype).eps * float(want.abs().max())
    apart = float((found - want).abs().max())
    if not apart <= tolerance:
        return Finding(layer, "different", f"by {apart:.3g} of {float(want.abs().max()):.3g}")
    more = f"beside {n_more} that timm leaves out, as a class token" if n_more else ""
    return Finding(layer, "equal") if placed else Finding(layer, "without places", more)


CUT: dict[str, dict[str, Any]] = {
    name: {"depth": 2}
    for name in (
        "beit_base_patch16_224",
        "deepseek_vit_412m",
        "gemma4_vit_167m",
        "qwen3_vit_88m",
        "samvit_base_patch16_224",
    )
}
"""Families whose smallest network is large: fewer of its equal blocks are built."""

SMALLEST = dict(
    pair.split(":")
    for pair in [
        "beit:beit_base_patch16_224",
        "byoanet:halonet_h1",
        "byobnet:test_byobnet",
        "cait:cait_xxs24_224",
        "coat:coat_tiny",
        "convit:convit_tiny",
        "convmixer:convmixer_768_32",
        "convnext:test_convnext",
        "cpubone:cpubone_nano",
        "crossvit:crossvit_tiny_240",
        "csatv2:csatv2",
        "cspnet:cs3darknet_focus_s",
        "cspnext:cspnext_tiny",
        "davit:davit_tiny",
        "deepseek_vit:deepseek_vit_412m",
        "deit:deit_tiny_patch16_224",
        "densenet:densenet121",
        "dla:dla46x_c",
        "dpn:dpn48b",
        "edgenext:edgenext_xx_small",
        "efficientformer:efficientformer_l1",
        "efficientformer_v2:efficientformerv2_s0",
        "efficientnet:mobilenetv2_035",
        "efficientvim:efficientvim_m1",
        "efficientvit_mit:efficientvit_b0",
        "efficientvit_msra:efficientvit_m0",
        "eva:vit_pe_spatial_tiny_patch16_512",
        "fasternet:fasternet_t0",
        "fastvit:fastvit_t8",
        "focalnet:focalnet_tiny_srf",
        "gcvit:gcvit_xxtiny",
        "gemma4_vit:gemma4_vit_167m",
        "ghostnet:ghostnet_050",
        "hardcorenas:hardcorenas_b",
        "hgnet:hgnetv2_b0",
        "hiera:hiera_tiny_224",
        "hieradet_sam2:sam2_hiera_tiny",
        "hrnet:hrnet_w18_small",
        "iformer:iformer_t",
        "inception_next:inception_next_atto",
        "inception_resnet_v2:inception_resnet_v2",
        "inception_v3:inception_v3",
        "inception_v4:inception_v4",
        "lcnetv2:lcnetv2_small",
        "levit:levit_128s",
        "lowformer:lowformer_b0",
        "mambaout:test_mambaout",
        "maxxvit:test_coatnet",
        "metaformer:poolformerv2_s12",
        "mlp_mixer:gmlp_ti16_224",
        "mobilenetv3:mobilenetv3_small_050",
        "mobilenetv5:mobilenetv5_base",
        "mobilevit:mobilevit_xxs",
        "mvitv2:mvitv2_tiny",
        "naflexvit:naflexvit_base_patch16_parfac_gap",
        "nasnet:nasnetalarge",
        "nest:nest_tiny",
        "nextvit:nextvit_small",
        "nfnet:test_nfnet",
        "pit:pit_ti_224",
        "pnasnet:pnasnet5large",
        "pvt_v2:pvt_v2_b0",
        "qwen3_vit:qwen3_vit_88m",
        "rdnet:rdnet_tiny",
        "regnet:regnetx_002",
        "repghost:repghostnet_050",
        "repvit:repvit_m1",
        "res2net:res2next50",
        "resnest:resnest14d",
        "resnet:test_resnet",
        "resnetv2:resnetv2_18",
        "rexnet:rexnet_100",
        "selecsls:selecsls42",
        "senet:legacy_seresnet18",
        "sequencer:sequencer2d_s",
        "shvit:shvit_s1",
        "sknet:skresnet18",
        "starnet:starnet_s050",
        "swiftformer:swiftformer_xs",
        "swin_transformer:swin_tiny_patch4_window7_224",
        "swin_transformer_v2:swinv2_tiny_window8_256",
        "swin_transformer_v2_cr:swinv2_cr_tiny_224",
        "tiny_vit:tiny_vit_5m_224",
        "tnt:tnt_s_legacy_patch16_224",
        "tresnet:tresnet_m",
        "twins:twins_svt_small",
        "vgg:vgg11",
        "visformer:visformer_tiny",
        "vision_transformer:test_vit",
        "vision_transformer_hybrid:vit_tiny_r_s16_p8_224",
        "vision_transformer_relpos:test_vit_relpos",
        "vision_transformer_sam:samvit_base_patch16_224",
        "vitamin:vitamin_small_224",
        "volo:volo_d1_224",
        "vovnet:ese_vovnet19b_slim_dw",
        "xception:legacy_xception",
        "xception_aligned:xception41p",
        "xcit:xcit_nano_12_p8_224",
    ]
)
"""The smallest network of every family of timm."""

_SMALL = (96, 128)
"""An input for networks that take any: small, and not square, so that swapped axes show."""


def timm_network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a timm network with random weights and two images for it: small ones where it takes them."""
    for size in (_SMALL, None):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module: Any = vivid(_created(name, size))
            batch = torch.randn(
                (2, 3, *(size or module.default_cfg["input_size"][1:])),
                generator=torch.Generator().manual_seed(1),
            )
            with torch.inference_mode():
                module(batch)
            return module, batch
        except Exception:
            if size is None:
                raise
    raise AssertionError


def _created(name: str, size: tuple[int, int] | None) -> nn.Module:
    cut = CUT.get(name, {})
    try:
        return timm.create_model(name, img_size=size, **cut) if size else timm.create_model(name, **cut)
    except TypeError:
        return timm.create_model(name, **cut)


def timm_findings(name: str) -> list[Finding]:
    """Compare every feature of a timm network."""
    module, batch = timm_network(name)
    with torch.inference_mode():
        wanted = _of_timm(module, batch)
        if not wanted:
            return []
        prefix = declared_prefix(module)
        return compare(TappedModule(module, torch.zeros_like(batch), prefix=prefix), batch, wanted)


def _of_timm(module: Any, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what timm says that each feature module gives."""
    names = [info["module"] for info in getattr(module, "feature_info", None) or () if info.get("module")]
    if not hasattr(module, "forward_intermediates"):
        return {}
    options: dict[str, Any] = {"intermediates_only": True}
    if "coarse" in inspect.signature(module.forward_intermediates).parameters:
        options["coarse"] = False  # of Hiera: all positions, not the means of mask units
    given: Sequence[torch.Tensor] = module.forward_intermediates(batch, **options)
    if len(names) != len(given):
        names = [f"feature {place}" for place in range(len(given))]
    return dict(zip(names, given, strict=True))


def transformers_findings(name: str) -> list[Finding]:
    """Compare what every encoder block of a transformers network gives; one that takes more than images is
    refused.
    """
    import transformers

    kind, config_kind, sizes = ARCHITECTURES[name]
    config = getattr(transformers, config_kind)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = vivid(getattr(transformers, kind)(config))
    side = sizes.get("image_size", IMAGE)
    height, width = (side, side) if isinstance(side, int) else side
    batch = torch.randn((2, 3, height, width), generator=torch.Generator().manual_seed(1))
    feed = functools.partial(_feed, module)
    with torch.inference_mode():
        try:
            answer = module(pixel_values=batch, output_hidden_states=True)
        except TypeError as error:
            why = f"it takes more than images: {str(error).partition('missing ')[2]}"
            return [Finding("all layers", "refused", why)]
        placed = answer.get("reshaped_hidden_states")
        states = answer.hidden_states if placed is None else placed
        wanted = {f"hidden_states[{place}]": state for place, state in enumerate(states)}
        behind = sizes.get("num_detection_tokens", 0)
        return compare(TappedModule(module, torch.zeros_like(batch), feed), batch, wanted, behind)


def _feed(module: nn.Module, batch: torch.Tensor) -> Any:
    return module(pixel_values=batch)


def timm_families() -> dict[str, list[str]]:
    """Return timm's networks by family, the module that defines them."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        found.setdefault(timm.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)
    return found


def row(library: str, family: str, findings: Sequence[Finding]) -> str:
    """Return the page's row of a family of timm, or of an architecture of transformers."""
    network = SMALLEST[family] if library == "timm" else ARCHITECTURES[family][0]
    notes: dict[str, list[str]] = {}
    for each in findings:
        if each.verdict != "equal":
            notes.setdefault(f"{each.verdict}: {each.why}".removesuffix(": "), []).append(f"`{each.layer}`")
    rest = "; ".join(f"{', '.join(layers)}: {why}" for why, layers in notes.items())
    n_equal = sum(each.verdict == "equal" for each in findings)
    equal = f"{n_equal} of {len(findings)}" if findings else "nothing to compare"
    return f"| {library} | {family} | `{network}` | {equal} | {rest.replace('|', '/')} |"


def rows() -> dict[tuple[str, str], str]:
    """Return the page's rows by library and family."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| t")]
    return {(line.split(" | ")[0][2:], line.split(" | ")[1]): line for line in lines}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="as in the table")
    known = [*SMALLEST, *ARCHITECTURES]
    asked = parser.parse_args().families
    if unknown := set(asked) - set(known):
        parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for family in asked or dict.fromkeys(known):
        if family in SMALLEST:
            _put("timm", family, row("timm", family, timm_findings(SMALLEST[family])))
        if family in ARCHITECTURES:
            _put("transformers", family, row("transformers", family, transformers_findings(family)))


def _put(library: str, family: str, line: str) -> None:
    print(line, flush=True)
    text = PAGE.read_text(encoding="utf-8")
    before = rows()
    head = text.partition("\n| t")[0].rstrip()
    made = before | {(library, family): line}
    PAGE.write_text("\n".join([head, *(made[key] for key in sorted(made))]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
