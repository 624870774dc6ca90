"""Train the bundled checkpoint: a tiny SDXL pipeline (autoencoder, then UNet) on photographs, from scratch, on a CPU.

    python tools/train_tiny_prior.py vae    --steps 3500      # the autoencoder: a quarter of an hour
    python tools/train_tiny_prior.py unet   --steps 18000     # the noise predictor on its latents: two hours
    python tools/train_tiny_prior.py export                   # -> worker/models/tiny, diffusers format, fp16

Each stage saves its state as it goes and, started again, goes on from there with other crops and noise than before; the
last quarter of `--steps` lowers the learning rate to zero, so a longer run may be asked for at any time before that.
Where no state is left, `adopt --steps 18000` makes one of worker/models/tiny, from which the UNet goes on.

`--like sd2` teaches the bundled UNet to be one of another kind, as Stable Diffusion 2.x: it predicts v, knows no sizes,
and has one text encoder. `adopt`, `unet --like sd2 --steps 2500`, `export --like sd2` write it to build/tiny-sd2. A
tenth of these steps will do.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

from tiny_text import save_text_parts
from training_images import Crops
from worker.solver.text import encode_prompt

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / "build" / "tiny"
TARGETS = {"sdxl": ROOT / "worker" / "models" / "tiny", "sd2": ROOT / "build" / "tiny-sd2"}

LATENT_CHANNELS = 32  # of the 48 numbers that 4 x 4 pixels are: what the latents lack, no prior gives back
TEXT_WIDTH, POOLED_WIDTH = 32, 16
HALF = "AVX512" in torch.backends.cpu.get_cpu_capability()  # elsewhere bfloat16 is several times slower than float32
NAMES = {"sdxl": "unet", "sd2": "unet-sd2"}  # of the states
MAX_TIMESTEP = 500  # tau never exceeds half of the schedule, so nothing above is ever asked for


def build_vae() -> AutoencoderDC:
    """1 M parameters, factor 4, by pixel shuffles with shortcuts around them (Chen et al., ICLR 2025).

    It starts out next to linear: the residual branches end in a norm of small weight, and a constant in some of the
    last channels outweighs the signal in the norm behind them. So it learns in minutes what otherwise takes hours.
    """
    widths: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        widths[f"{side}_block_out_channels"] = (32, 48, 96)
        widths[f"{side}_layers_per_block"] = (0, 1, 2)
        widths[f"{side}_qkv_multiscales"] = ((), (), ())
    vae = AutoencoderDC(latent_channels=LATENT_CHANNELS, decoder_conv_act_fn="silu", **widths)
    for name, module in vae.named_modules():
        if name.endswith(".norm"):
            nn.init.constant_(module.weight, 0.1)
    nn.init.constant_(vae.decoder.up_blocks[1][0].conv.bias[: 4 * 8], 4.0)
    return vae


def build_unet(like: str) -> UNet2DConditionModel:
    """4.8 M parameters with SDXL's conditioning: text states, pooled text and size embeddings; `sd2`: states alone."""
    added: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + POOLED_WIDTH,
    }
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=(3, 3, 4),
        cross_attention_dim=TEXT_WIDTH,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        norm_num_groups=16,
        **(added if like == "sdxl" else {}),
    )


def build_scheduler(like: str) -> EulerDiscreteScheduler:
    """SDXL's own noise schedule, which is Stable Diffusion's."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type="epsilon" if like == "sdxl" else "v_prediction",
    )


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Hold, then fall linearly over the last quarter."""
    return peak * min(1.0, max(0.0, 4 * (steps - step) / steps))


def running_mean(average: Tensor, value: Tensor, count: int | Tensor) -> Tensor:
    """Exponential moving average that forgets the first, untrained weights quickly."""
    return average.lerp(value, max(0.001, float(9 / (10 + count))))


def training(name: str, model: nn.Module, peak: float, steps: int, save_every: int = 250) -> Iterator[int]:
    """Yield each step left to do, for the caller to run forward and backward; saves state, prints the pace."""
    state_file = STATE / f"{name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=1e-4)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=running_mean)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(step: int) -> None:
        STATE.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
        torch.save({k: v.state_dict() for k, v in parts.items()} | {"step": step}, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)

    started = time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak) * min(1.0, (step - first + 1) / 100)  # warm up, also again
        optimizer.zero_grad(set_to_none=True)
        yield step
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(step + 1)
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(f"{name} step {step + 1}/{steps}  {pace:.3f} s/step", flush=True)


def steps_done(name: str) -> int:
    """How far an earlier run came; mixed into the seed, so that what follows is not what it saw already."""
    state_file = STATE / f"{name}.pt"
    return int(torch.load(state_file, weights_only=True)["step"]) if state_file.exists() else 0


def batches(crops: Crops, count: int, size: int) -> Tensor:
    return torch.from_numpy(crops.batch(count, size)).contiguous(memory_format=torch.channels_last)


def train_vae(steps: int, seed: int) -> None:
    """L1 + L2 of the reconstruction, from latents with small errors; and latents that keep distances.

    White noise on the pixels is to be white noise on the latents, of the same strength. Then the sampler's noise is
    white on the pixels too, and hides fine detail long before coarse. Were every latent of unit variance instead, it
    would hide both alike, though a measurement knows the coarse well (docs/decisions.md).
    """
    torch.manual_seed(seed + steps_done("vae"))
    vae = build_vae().to(memory_format=torch.channels_last)
    crops = Crops(seed + steps_done("vae"))
    for step in training("vae", vae, 1.5e-3, steps):
        x = batches(crops, 16, 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            z, moved = vae.encode(torch.cat([x, x + 0.1 * torch.randn_like(x)])).latent.float().chunk(2)
            jitter = torch.rand(z.shape[0], 1, 1, 1) * 0.05
            y = vae.decode(z + jitter * torch.randn_like(z)).sample.float()
        noise = ((moved - z) / 0.1).transpose(0, 1).flatten(1)
        colour = (noise @ noise.T / noise.shape[1] - torch.eye(LATENT_CHANNELS)).square().sum(0).mean()
        spread = z.mean((0, 2, 3)).square().mean() + colour
        error = (y - x).square().mean()
        torch.autograd.backward(4 * error + 0.5 * (y - x).abs().mean() + 0.02 * spread)
        if (step + 1) % 250 == 0:
            psnr = -10 * torch.log10(error.detach() / 4)
            print(f"vae {psnr:.2f} dB with jitter, noise off white by {colour.detach():.4f}", flush=True)


def trained_vae() -> AutoencoderDC:
    """The autoencoder as its last step left it, with the scaling factor that gives its latents unit variance."""
    vae = build_vae()
    vae.load_state_dict(torch.load(STATE / "vae.pt", weights_only=True)["model"])
    vae.eval().requires_grad_(False)
    spread = vae.encode(batches(Crops(seed=2, leaves=0), 64, 128)).latent.std()
    vae.register_to_config(scaling_factor=round(float(1 / spread), 3))
    return vae


def trained_unet(like: str) -> UNet2DConditionModel:
    """The UNet with its averaged weights."""
    unet = build_unet(like)
    average = torch.load(STATE / f"{NAMES[like]}.pt", weights_only=True)["average"]
    unet.load_state_dict({k.removeprefix("module."): v for k, v in average.items() if k.startswith("module.")})
    return unet.eval().requires_grad_(False)


def train_unet(steps: int, seed: int, like: str) -> None:
    """Noise prediction (Ho et al. 2020), or that of v, on the frozen autoencoder's latents.

    Small timesteps, where restoring ends, are drawn more often.
    """
    name, text = NAMES[like], STATE / f"text-{like}"
    vae = trained_vae().to(memory_format=torch.channels_last)
    unet = build_unet(like).to(memory_format=torch.channels_last)
    if like != "sdxl":  # a pupil starts as its teacher, but for what it has no use for
        unet.load_state_dict(trained_unet("sdxl").state_dict(), strict=False)
    abar_table = build_scheduler(like).alphas_cumprod
    crops = Crops(seed + 1 + steps_done(name))
    save_text_parts(text, TEXT_WIDTH, POOLED_WIDTH, like)
    build_scheduler(like).save_pretrained(text / "scheduler")
    empty = encode_prompt(text, None, "")
    torch.manual_seed(seed + steps_done(name))
    losses: list[float] = []
    for step in training(name, unet, 8e-4, steps):
        count = 12
        x = batches(crops, count, 96)
        t = (torch.rand(count).square() * MAX_TIMESTEP).long() + 1
        abar = abar_table[t].view(-1, 1, 1, 1)
        size = torch.randint(64, 1280, (count, 2)).float()
        time_ids = torch.cat([size, torch.zeros(count, 2), size], dim=1)
        pooled = None if empty.pooled is None else empty.pooled.expand(count, -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            with torch.no_grad():
                z = vae.encode(x).latent.float() * vae.config.scaling_factor
            eps = torch.randn_like(z)
            noisy = abar.sqrt() * z + (1 - abar).sqrt() * eps
            guess = unet(
                noisy,
                t,
                encoder_hidden_states=empty.states.expand(count, -1, -1),
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            ).sample.float()
        wanted = eps if like == "sdxl" else abar.sqrt() * eps - (1 - abar).sqrt() * z
        loss = F.mse_loss(guess, wanted)
        torch.autograd.backward(loss)
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            print(f"{name} loss {sum(losses[-250:]) / len(losses[-250:]):.4f}", flush=True)


def adopt(steps: int) -> None:
    """Make states of the exported checkpoint, the UNet's as after `steps` steps; the optimizer starts afresh."""
    STATE.mkdir(parents=True, exist_ok=True)
    for name, kind, done in (("vae", AutoencoderDC, 0), ("unet", UNet2DConditionModel, steps)):
        model = kind.from_pretrained(TARGETS["sdxl"] / name).float()
        average = torch.optim.swa_utils.AveragedModel(model)
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": {}, "step": done}
        torch.save(state, STATE / f"{name}.pt")


def export(like: str) -> None:
    """Write the pipeline as diffusers reads it: fp16 safetensors, scheduler, text parts, model_index.json."""
    target, vae, unet = TARGETS[like], trained_vae(), trained_unet(like)
    vae.half().save_pretrained(target / "vae", safe_serialization=True)
    unet.half().save_pretrained(target / "unet", safe_serialization=True)
    build_scheduler(like).save_pretrained(target / "scheduler")
    save_text_parts(target, TEXT_WIDTH, POOLED_WIDTH, like)
    total = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{target}: {total / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "unet", "adopt", "export"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--like", choices=TARGETS, default="sdxl")
    args = parser.parse_args()
    match args.stage:
        case "vae":
            train_vae(args.steps, args.seed)
        case "unet":
            train_unet(args.steps, args.seed, args.like)
        case "adopt":
            adopt(args.steps)
        case "export":
            export(args.like)


if __name__ == "__main__":
    main()
