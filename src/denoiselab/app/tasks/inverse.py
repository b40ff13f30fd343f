"""Images restored from measurements: samples of p(x | y) by a model that was trained without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoiselab.app.building.given import Given
from denoiselab.app.config import overrides
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks import task
from denoiselab.app.tasks.drawing import Start, described
from denoiselab.app.tasks.from_images import FromImages
from denoiselab.codecs import Identity
from denoiselab.data.given import image_folder
from denoiselab.denoiser import Denoise
from denoiselab.errors import BadInput
from denoiselab.evaluation.restoration import LPIPS_SIDE, Distance, fidelity, read_lpips
from denoiselab.inverse import Decoded, LikelihoodMethod, LinearOperator, Mask, Method, PosteriorStep, StepMethod
from denoiselab.inverse import check_adjoint as check_operator
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing, Model
from denoiselab.noise import TRAINING, Noise
from denoiselab.samplers import OnStep, Sampler, Tally
from denoiselab.stored import from_uint8, to_uint8

# Draw k of image i has the noise of sample i + k _APART, so that more draws or images do not change the others.
_APART = 10**6

# Draws of an image that the grid shows.
_SHOWN = 4


@dataclass(kw_only=True)
class Inverse(FromImages):
    """Restore images from measurements y = A x + noise, and write given | result | reference, and how near they are.

    A and the noise are in the range [-1, 1] of images, where 2 is from black to white; of a model of latents A acts on
    what the decoder makes of them, which only `dps_published` follows. The measurements are made of `images`,
    or are images in a folder themselves. With several draws an image, their mean and standard deviation are written
    too; the mean has the least error, and single draws look like data.

    Args:
        method: How; a choice of task/method, such as mmps, ddnm or repaint.
        operator: A; a choice of task/operator, such as average_pool, box or mask, or a class of your own:
            task.operator._target_=package.Class, with DENOISELAB_ALLOW=package in the environment.
        noise: Standard deviation of the noise in the measurements, at least 0.
        draws: Samples an image.
        measurements: Folder of measurements as images, of the size of A x (of masks: of x), in place of those made of
            `images`; null: none.
        lpips: File of torchvision's AlexNet (alexnet-owt-7be5be79.pth), with which LPIPS is measured; null: it is not.
    """

    method: Method
    operator: LinearOperator
    noise: float = 0.05
    draws: int = 1
    measurements: str | None = None
    lpips: str | None = None

    folder: ClassVar[str] = "inverse"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lpips: Distance | None = None
        task.check_ranges(draws=self.draws)
        if self.measurements is not None and self.images != "held_out":
            raise ValueError(f"images={self.images}: it has no effect with measurements; leave it out.")
        self.method.check(self.noise)

    @property
    def number(self) -> int:
        assert self.num_samples is not None
        return self.num_samples * self.draws

    @property
    def said(self) -> str:
        residual = "residual" if self.noise > 0 else "residual_rms"
        found = {name: self._facts.get(name) for name in ("psnr", residual)}
        return "".join(f", {name} {value:.4g}" for name, value in found.items() if value is not None)

    def prepare(self, asked: SampleSettings, opened: task.Opened, sampler: Sampler) -> Sampler:
        model = opened.model
        _check_samples(model, self.method)
        if self.lpips is not None:
            if min(sides := model.codec.shape[1:]) < LPIPS_SIDE:
                raise BadInput(
                    f"task.lpips={self.lpips}: LPIPS takes sides of at least {LPIPS_SIDE} pixels, and samples have "
                    f"{' x '.join(map(str, sides))}; leave it out."
                )
            try:
                self._lpips, self._facts["lpips_sha256"] = read_lpips(Path(self.lpips).expanduser())
            except ValueError as error:
                raise BadInput(f"task.lpips={self.lpips}: {error}") from None
        try:
            check_operator(self.operator, model.codec.shape, opened.device)
        except ValueError as error:
            text = str(error)
            own = text.startswith("task.")
            raise BadInput(
                text if own else f"task.{'' if text.startswith('operator=') else 'operator.'}{text}"
            ) from None
        model.denoiser.requires_grad_(False)
        sampler = self._stepped(super().prepare(asked, opened, sampler), model, asked)
        self._facts["given"] = self._given.names_of(torch.arange(self.number // self.draws))
        self._facts["noise_unit"] = "the network's range: [-1, 1] of images"
        self._facts["start"] = described(sampler.grid(model.denoiser.schedule)[0])
        if isinstance(sha256 := getattr(self.operator, "sha256", None), str):
            self._facts["mask_sha256"] = sha256
        return sampler

    def read(self, opened: task.Opened) -> Given:
        if self.measurements is None:
            return super().read(opened)
        shape = opened.model.codec.shape
        wanted = shape if isinstance(self.operator, Mask) else self.operator.shape_of(shape)
        if len(wanted) != 3:
            raise BadInput(
                f"task.measurements={self.measurements}: measurements by {type(self.operator).__name__} are no images."
            )
        found, names = image_folder(Path(self.measurements).expanduser(), wanted, "task.measurements")
        return Given(found, torch.arange(len(found)), names, labelled=False)

    def start(self, rows: Tensor, sampler: Sampler, model: Model) -> Start:
        """Draws of an image follow each other."""
        images = rows // self.draws
        return Start(images + rows % self.draws * _APART, cond=self.conditions(model, images))

    def draw(self, start: Start, drawing: Drawing, model: Model, on_step: OnStep) -> tuple[Tensor, Tally]:
        method, y, sampler = self.method, self._measurements(start.samples % _APART, model), drawing.sampler
        if isinstance(sampler, StepMethod):
            sampler = replace(sampler, y=y)

        def steer(denoise: Denoise, index: Tensor, tally: Tally) -> Denoise:
            denoise = denoise if drawing.steer is None else drawing.steer(denoise, index, tally)
            if isinstance(sampler, PosteriorStep):
                sampler.tally = tally
            if isinstance(method, LikelihoodMethod):
                return method.wrap(denoise, self.operator, y, self.noise, tally)
            return denoise

        return super().draw(start, replace(drawing, sampler=sampler, steer=steer), model, on_step)

    def _stepped(self, sampler: Sampler, model: Model, asked: SampleSettings) -> Sampler:
        """The sampler with the method's steps, if it changes them, for a batch that is put in later."""
        node = asked.task["method"]
        if self.method.renoises and not sampler.renoises:
            assert asked.sampler is not None
            raise BadInput(
                f"{overrides.written('task/method', node)}: it keeps eps while x0 changes, and "
                f"{overrides.written('sampler', asked.sampler)} adds none to x0; use ddim."
            )
        blank = self.operator(torch.zeros(1, *model.codec.shape, device=model.device))
        codec, operator = model.codec, self.operator
        if not isinstance(codec, Identity):
            codec.load()
            operator = Decoded(operator, getattr(codec, "decode_differentiably", codec.decode))
        try:
            out = self.method.steps(sampler, operator, blank)
            if isinstance(out, StepMethod):
                out.nfe(out.steps, model.denoiser.schedule)
        except ValueError as error:
            text, class_ = str(error), f"sampler={type(sampler).__name__}"
            own = text.startswith("sampler=")
            if text.startswith(class_) and asked.sampler is not None:
                text = overrides.written("sampler", asked.sampler) + text.removeprefix(class_)
            raise BadInput(
                f"{overrides.written('task/method', node)}: {text}" if own else f"task.method.{text}"
            ) from None
        return out

    def _measurements(self, images: Tensor, model: Model) -> Tensor:
        """Those of images `(B,)`, on the model's device."""
        known = self._given.clean(images, model.device).images
        if self.measurements is not None:
            return self.operator(known) if isinstance(self.operator, Mask) else known
        exact: Tensor = self.operator(known)
        noise = Noise(self.seed, images.to(model.device), TRAINING).normal(exact.shape[1:], exact.dtype)
        return exact + self.noise * noise

    def write(self, folder: Path, samples: Tensor, model: Model, labels: Sequence[str] | None) -> None:
        kind, rows = medium(model.codec.shape), torch.arange(self.number // self.draws)
        drawn = samples.unflatten(0, (len(rows), self.draws))
        y = torch.cat([self._measurements(part, model).cpu() for part in rows.split(self.batch_size)])
        operator = self.operator.cpu()
        seen = y if y.shape[1:] == samples.shape[1:] else operator.pinv(y)
        results = {
            f"result {k + 1}" if self.draws > 1 else "result": drawn[:, k] for k in range(min(self.draws, _SHOWN))
        }
        columns = {"given": to_uint8(seen), **results}
        if self.draws > 1:
            mean, spread = drawn.double().mean(1), drawn.double().std(1).mean(1, keepdim=True).expand_as(drawn[:, 0])
            largest = float(spread.max())
            columns["mean"] = mean.round().to(torch.uint8)
            columns["std"] = (spread * (255 / max(largest, 1e-9))).round().to(torch.uint8)
            self._facts["std_of_white"] = largest / 127.5
        if self.measurements is None:
            columns["reference"] = self._given.stored(rows)
            self._facts |= self._scored(columns, samples)
        residual = (
            torch.cat([operator(from_uint8(part)) - y for part in drawn.unbind(1)]).double().square().mean().sqrt()
        )
        self._facts["residual_rms"] = float(residual)
        self._facts["residual"] = float(residual) / self.noise if self.noise > 0 else None
        kind.write_files(folder, samples, self.format)
        for name in columns.keys() - results.keys():
            (folder / name).mkdir()
            kind.write_files(folder / name, columns[name], self.format)
        across = len(columns) * max(1, round(math.sqrt(len(rows) / len(columns))))
        kind.write_grid(folder / "grid.png", torch.stack([*columns.values()], 1).flatten(0, 1), across)
        self._facts["grid"] = [*columns]

    def _scored(self, columns: dict[str, Tensor], samples: Tensor) -> dict[str, Any]:
        """Means over samples, and of the pictures of means, by name; null where there is no such score.

        PSNR is infinite of samples that equal their reference: they are left out of its mean, and counted (`equal`).
        """
        reference = columns["reference"]
        parts = {"": (samples, reference.repeat_interleave(self.draws, 0))}
        if self.draws > 1:
            parts["_of_mean"] = columns["mean"], reference
        out: dict[str, Any] = {}
        for end, (images, true) in parts.items():
            found = fidelity(images, true, self._lpips)
            differs = found["psnr"].isfinite()
            found["psnr"] = found["psnr"][differs]
            if equal := int((~differs).sum()):
                out["equal" + end] = equal
            means = {name: float(found[name].mean()) if name in found else None for name in ("psnr", "ssim", "lpips")}
            out |= {
                name + end: value if value is None or math.isfinite(value) else None for name, value in means.items()
            }
        return out


def _check_samples(model: Model, method: Method) -> None:
    """Refuse samples that are no images, and latents that the method cannot follow to their images."""
    if len(model.codec.shape) != 3:
        raise BadInput("task=inverse: operators act on pixels, and the model's samples are no images.")
    if not isinstance(model.codec, Identity) and not method.decodes:
        raise BadInput(
            f"task=inverse: operators act on pixels, and the model's samples are latents of "
            f"{type(model.codec).__name__}; task/method=dps_published takes gradients through the decoder."
        )
