import torch
from torch import nn

from zoo.layers.recurrent import ImageLSTM, ImageMLP


def test_image_lstm_is_torchs_on_the_concatenation() -> None:
    torch.manual_seed(0)
    ours, theirs = ImageLSTM(12, 3, 5).double(), nn.LSTMCell(15, 5).double()
    with torch.no_grad():
        ours.start.normal_()
        theirs.weight_ih.copy_(torch.cat([ours.image.weight, ours.rest.weight[:, :3]], 1))
        theirs.weight_hh.copy_(ours.rest.weight[:, 3:])
        theirs.bias_ih.copy_(ours.image.bias)
        theirs.bias_hh.zero_()
    image = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    state = ours.begin(2)
    hidden, cell = state
    read = ours.read(image)
    for _ in range(3):
        features = torch.randn(2, 3, dtype=torch.float64)
        output, state = ours(read, features, state)
        hidden, cell = theirs(torch.cat([image.flatten(1), features], 1), (hidden, cell))
        torch.testing.assert_close(output, hidden)
        torch.testing.assert_close(state[1], cell)


def test_image_mlp_forgets() -> None:
    torch.manual_seed(0)
    for features in (3, 0):
        cell = ImageMLP(12, features, (6, 5), 4)
        image, latents = torch.rand(2, 3, 2, 2), torch.randn(2, features)
        first, state = cell(cell.read(image), latents, cell.begin(2))
        second, _ = cell(cell.read(image), latents, state)
        torch.testing.assert_close(first, second)
        x = cell.image(image.flatten(1)) + (cell.rest(latents) if cell.rest is not None else 0)
        torch.testing.assert_close(first, cell.net[2](cell.net[0](x.relu()).relu()).relu())
