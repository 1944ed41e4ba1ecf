"""What a model says of its own errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from deqflow.cli import main
from deqflow.config import ModelConfig, SolveSettings
from deqflow.errors import ConfigError, DataError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.calibration import Calibration, calibrate, calibration_table, measure_calibration
from deqflow.io import read_image, write_image
from deqflow.network import Mixture, MixtureConfig, MixtureHead, extract_positions
from deqflow.network.uncertainty import INNER_SCALE
from deqflow.training.data import Batch, held_out_scenes
from deqflow.training.stages import STAGES
from deqflow.training.starts import StepRandomness
from deqflow.training.supervised import CorrectionObjective
from deqflow.visualize import scalar_map
from deqflow.visualize.renderings import MOST_ERROR
from deqflow.zoo import PRESETS, load, save_weights


@pytest.mark.parametrize(("ordinary", "scale"), [(-2.0, 3.0), (0.5, 0.6), (4.0, 20.0)])
def test_a_mixture_is_a_density_with_its_expected_error(ordinary, scale):
    mixture = Mixture(torch.tensor(ordinary, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    error = torch.linspace(-600, 600, 1_200_001, dtype=torch.float64)
    density = torch.exp(-mixture.negative_log_likelihood(error))
    assert torch.trapezoid(density, error).item() == pytest.approx(1, abs=1e-4)
    mean = torch.trapezoid(density * error.abs(), error).item()
    assert mixture.expected_error.item() == pytest.approx(mean, rel=1e-3)


def test_full_resolution_is_the_cells_in_their_places():
    torch.manual_seed(0)
    head = MixtureHead(hidden=6, width=5, factor=8)
    hidden, chosen = torch.randn(2, 6, 3, 4), torch.tensor([0, 7, 13, 63])
    full, cells = head(hidden), head.at_positions(hidden, chosen)
    assert full.scale.shape == (2, 1, 24, 32) and (full.scale > INNER_SCALE).all()
    for whole, part in zip(full, cells, strict=True):
        torch.testing.assert_close(extract_positions(whole, 8, chosen), part)


def test_the_head_learns_how_large_errors_are():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = MixtureHead(hidden=2, width=16, factor=2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    hidden = torch.zeros(1, 2, 24, 24)
    hidden[:, 0, :, 12:] = 1
    true_scale = torch.where(torch.arange(24) < 12, INNER_SCALE, 5.0)
    for _ in range(150):
        sign = torch.randint(0, 2, (2, 1, 2, 4, 24, 24), generator=generator)
        size = -torch.rand(1, 2, 4, 24, 24, generator=generator).log() * true_scale
        negative_log_likelihood = (
            head.at_positions(hidden).negative_log_likelihood((2 * sign[0] - 1) * size).mean()
        )
        optimizer.zero_grad()
        negative_log_likelihood.backward()
        optimizer.step()
    expected = head(hidden).expected_error
    assert expected[..., :20].mean().item() == pytest.approx(INNER_SCALE, rel=0.2)
    assert expected[..., 28:].mean().item() == pytest.approx(5.0, rel=0.2)


def tiny(**changes):
    torch.manual_seed(1)
    config = replace(PRESETS["deqflow-s-v0"].config, hidden=16, context=8, features=16, **changes)
    return DEQFlow(config, SolveSettings(steps=2)).eval()


def test_estimates_carry_it_where_the_model_tells_it():
    frame1, frame2 = np.random.default_rng(0).integers(0, 256, (2, 37, 50, 3), dtype=np.uint8)
    told = tiny(uncertainty=MixtureConfig(width=8)).estimate(frame1, frame2)
    assert told.uncertainty.shape == (37, 50) and told.uncertainty.dtype == np.float32
    assert (told.uncertainty >= INNER_SCALE).all() and np.isfinite(told.uncertainty).all()
    silent = tiny(uncertainty=None)
    assert silent.estimate(frame1, frame2).uncertainty is None


def test_a_model_without_the_head_is_described_and_loaded_as_such(tmp_path):
    for head in (None, MixtureConfig(width=8)):
        config = replace(PRESETS["deqflow-s"].config, uncertainty=head)
        assert ModelConfig.from_dict(config.to_dict()) == config
        path = tmp_path / f"{head is None}.safetensors"
        save_weights(DEQFlow(config, name="deqflow-s"), path)
        model = load("deqflow-s", checkpoint=path, device="cpu")
        assert (model.uncertainty is None) == (head is None) and model.config == config
    with pytest.raises(ConfigError, match="uncertainty"):
        ModelConfig.from_dict({"uncertainty": {"kind": "guess"}})
    assert load("deqflow-s", checkpoint=path, device="cpu").uncertainty is not None


def gradients(model, loss):
    """Of one step on a pair of noise, by name."""
    generator = torch.Generator().manual_seed(0)
    image1, image2 = 255 * torch.rand(2, 1, 3, 64, 64, generator=generator)
    batch = Batch(image1, image2, torch.randn(1, 2, 64, 64, generator=generator), torch.ones(1, 1, 64, 64))
    objective = CorrectionObjective(model, replace(STAGES["synthetic"], loss=loss))
    value, _ = objective(batch, StepRandomness(torch.arange(16), solver_steps=3))
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_the_head_learns_beside_the_flow_without_a_say_in_it():
    told, silent = tiny(uncertainty=MixtureConfig(width=8)), tiny(uncertainty=None)
    shared = {name: value for name, value in told.state_dict().items() if "uncertainty" not in name}
    silent.load_state_dict(shared)
    with_head, without = gradients(told, "robust"), gradients(silent, "robust")
    for name, gradient in without.items():
        torch.testing.assert_close(with_head[name], gradient)
    assert all(with_head[name].any() for name in with_head.keys() - without.keys())


def test_as_a_loss_the_mixture_moves_everything():
    moved = gradients(tiny(uncertainty=MixtureConfig(width=8)), "mixture")
    assert all(gradient is not None and gradient.isfinite().all() for gradient in moved.values())


def test_the_mixture_as_a_loss_needs_a_head():
    stage = replace(STAGES["synthetic"], loss="mixture")
    CorrectionObjective(tiny(uncertainty=MixtureConfig(width=8)), stage)
    with pytest.raises(ConfigError, match="loss mixture needs a model with an uncertainty head"):
        CorrectionObjective(tiny(uncertainty=None), stage)


def test_the_command_draws_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deqflow.stream.UNMATCHED", np.inf)  # across a cut, a picture has that written on it
    rng = np.random.default_rng(0)
    frames = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for frame in frames:
        write_image(frame, rng.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    files = {head: tmp_path / f"{head}.safetensors" for head in (True, False)}
    for head, path in files.items():
        config = replace(PRESETS["deqflow-s"].config, uncertainty=MixtureConfig() if head else None)
        save_weights(DEQFlow(config, name="deqflow-s"), path)
    words = ["flow", *frames, "--output", str(tmp_path), "--formats", "uncertainty", "--device", "cpu"]
    assert main([*words, "--checkpoint", str(files[True])]) == 0
    drawn = read_image(tmp_path / "a_uncertainty.png")
    estimate = load("deqflow-s", checkpoint=files[True], device="cpu").estimate(*frames)
    np.testing.assert_array_equal(drawn, scalar_map(estimate.uncertainty, MOST_ERROR))
    assert main([*words, "--checkpoint", str(files[False]), "--overwrite"]) == 2
    assert "deqflow-s does not tell how far its flow may be off" in capsys.readouterr().err


def test_calibration_pools_pixels_by_the_expected_error():
    calibration = Calibration()
    calibration.add(np.array([0.25, 0.25, 0.7, 9.0]), np.array([0.1, 0.3, 0.6, 20.0]))
    calibration.add(np.array([0.7, 0.3, 1.5]), np.array([1.0, 0.2, 0.1]))
    assert calibration.pixels.tolist() == [0, 2, 1, 2, 1, 0, 0, 1]
    np.testing.assert_allclose(calibration.real, [0, 0.4, 0.2, 1.6, 0.1, 0, 0, 20])
    np.testing.assert_allclose(calibration.expected, [0, 0.5, 0.3, 1.4, 1.5, 0, 0, 9])
    table = calibration_table(calibration)
    assert "| 0 to 0.1" in table and "| 8 and more" in table and "| 0.5 to 1" in table
    assert "median: 0.22" in table  # 0.949 and -0.5


def test_the_curve_of_a_calibration_rises():
    calibration = Calibration((1.0, 2.0, 3.0, 4.0))
    for told, real, pixels in (
        (0.5, 0.2, 1000),
        (1.5, 3.0, 100),
        (2.5, 1.0, 300),
        (3.5, 9.0, 4),
        (8.0, 20.0, 100),
    ):
        calibration.add(np.full(pixels, told), np.full(pixels, real))
    # 1.5 and 2.5 are pooled, since real errors fall between them; 3.5 has too few pixels to say anything.
    assert calibration.curve() == ((0.5, 0.2), (2.25, 1.5), (8.0, 20.0))
    flat = Calibration((1.0,))
    flat.add(np.array([0.5, 2.0]), np.array([1.0, 1.0]))
    with pytest.raises(DataError, match="do not rise"):
        flat.curve()


def test_expected_errors_follow_the_curve():
    torch.manual_seed(0)
    head = MixtureHead(hidden=6, width=5, factor=2)
    hidden = 4 * torch.randn(1, 6, 8, 8)
    told = head.expected_error(hidden)
    torch.testing.assert_close(told, head(hidden).expected_error, rtol=0, atol=0)
    head.calibration = ((0.3, 0.1), (0.8, 0.6), (2.0, 5.4))
    # Beyond the last point as before it: 4 px of error for a pixel told.
    wanted = np.interp(told.detach().numpy(), [0.3, 0.8, 2.0, 102.0], [0.1, 0.6, 5.4, 405.4])
    torch.testing.assert_close(head.expected_error(hidden), torch.from_numpy(wanted).float())
    disagreement = torch.full((1, 1, 8, 8), 0.5)
    wanted = np.interp(0.5 + told.detach().numpy(), [0.3, 0.8, 2.0, 102.0], [0.1, 0.6, 5.4, 405.4])
    torch.testing.assert_close(head.expected_error(hidden, disagreement), torch.from_numpy(wanted).float())


@pytest.mark.parametrize(
    "curve",
    [((0.1, 0.2),), ((0.1, 0.2), (0.1, 0.3)), ((0.1, 0.2), (0.3, 0.2)), ((0.1, "a"), (1, 2)), (1, 2), "ab"],
)
def test_a_calibration_that_is_no_rising_curve_is_refused(curve):
    with pytest.raises(ConfigError, match="calibration of the uncertainty must be"):
        MixtureConfig(calibration=curve)


def test_calibrated_weights_expect_the_errors_that_they_make(tmp_path, capsys):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    scenes = "--pairs 3 --width 64 --height 64 --device cpu --checkpoint"
    config = replace(PRESETS["deqflow-s-v0"].config, uncertainty=MixtureConfig(width=8))
    torch.manual_seed(0)
    save_weights(DEQFlow(config, name="deqflow-s-v0"), source, metadata={"data": "drawn"})
    words = ["calibrate", "--model", "deqflow-s-v0", *scenes.split(), str(source), "--output", str(target)]
    assert main(words) == 0
    assert "b.safetensors" in capsys.readouterr().out
    with safe_open(str(target), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["data"] == "drawn"
    assert metadata["calibrated_on"] == "held-out scenes 0 to 2 of usual motion at 64x64"
    before, after = (load("deqflow-s-v0", checkpoint=path, device="cpu") for path in (source, target))
    assert not before.uncertainty.calibration and len(after.uncertainty.calibration) >= 2
    assert after.config.uncertainty.calibration == after.uncertainty.calibration
    for key, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[key], value, rtol=0, atol=0)
    scenes = held_out_scenes(None, 64, 64)
    found = measure_calibration(after, [scenes[number] for number in range(3)])
    assert found.expected.sum() == pytest.approx(found.real.sum(), rel=0.1)
    assert measure_calibration(before, [scenes[0]]).expected.sum() != pytest.approx(found.real.sum(), rel=0.5)
    assert main(words) == 2
    assert "b.safetensors" in capsys.readouterr().err
    mean = tmp_path / "mean.safetensors"
    assert main(["average", str(source), str(target), "--output", str(mean)]) == 0
    assert not load("deqflow-s-v0", checkpoint=mean, device="cpu").uncertainty.calibration
    assert main(["average", str(target), str(target), "--output", str(mean), "--overwrite"]) == 0
    with safe_open(str(mean), framework="pt") as file:
        assert "calibrated_on" not in file.metadata() and file.metadata()["data"] == "drawn"


def test_a_curve_is_of_the_finest_stride_that_is_trained():
    """What enlarged frames tell goes through it as well, and is not what it was measured by."""
    torch.manual_seed(0)
    model = DEQFlow(replace(PRESETS["deqflow-s-v0"].config, uncertainty=MixtureConfig(width=8)))
    scenes, curves = held_out_scenes(None, 64, 64), []
    for pixels in (0, 64 * 64):
        model.defaults = replace(model.defaults, still_pixels=pixels)
        curves.append(calibrate(model, [scenes[0]]))
    assert curves[0] == curves[1] and model.uncertainty.calibration == curves[0]


def test_the_bench_compares_expected_and_real_errors(tmp_path, capsys):
    paths = {head: tmp_path / f"{head}.safetensors" for head in (True, False)}
    for head, path in paths.items():
        config = replace(PRESETS["deqflow-s"].config, uncertainty=MixtureConfig() if head else None)
        save_weights(DEQFlow(config, name="deqflow-s"), path)
    words = "bench uncertainty --pairs 2 --width 64 --height 64 --device cpu --checkpoint"
    assert main([*words.split(), str(paths[True])]) == 0
    assert "share of pixels %" in capsys.readouterr().out
    assert main([*words.split(), str(paths[False])]) == 2
    assert "deqflow-s does not tell how far its flow may be off" in capsys.readouterr().err
