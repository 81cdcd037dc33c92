"""The smallest things that the training loop can fit: a line through points, with all kinds of randomness."""

import torch
from torch import nn


class Points:
    """Points on y = 3 x + 1; ``fault`` replaces the x of that point."""

    def __init__(self, count=64, slope=3.0, fault=None, value=float("nan")):
        self.x = torch.linspace(-1, 1, count)
        self.y = slope * self.x + 1
        if fault is not None:
            self.x[fault] = value

    def __len__(self):
        return len(self.x)

    def sample(self, batch_size, generator):
        index = torch.randint(len(self.x), (batch_size,), generator=generator)
        return {"x": self.x[index], "y": self.y[index]}


class Line(nn.Module):
    """Least squares; ``noise`` is drawn inside the loss, ``dropout`` by torch's global generator."""

    def __init__(self, noise=0.0, dropout=0.0, learning_rate=0.05):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.dropout = nn.Dropout(dropout)
        self.noise = noise
        self.config = {"noise": noise, "dropout": dropout}
        self.learning_rate = learning_rate
        self.losses = []
        self.steps = 0
        self.gradient_norms = []

    def loss(self, batch, generator=None):
        y = self.linear(self.dropout(batch["x"][:, None]))[:, 0]
        wanted = batch["y"]
        if self.noise:
            wanted = wanted + self.noise * torch.randn(len(y), generator=generator)
        loss = (y - wanted).square().mean()
        self.losses.append(loss.item())
        return loss, {"bias": self.linear.bias.detach()[0]}

    def parameter_groups(self):
        return [{"params": list(self.parameters()), "lr": self.learning_rate}]

    def after_step(self):
        self.steps += 1
        squares = [p.grad.square().sum() for p in self.parameters() if p.grad is not None]
        self.gradient_norms.append(torch.stack(squares).sum().sqrt().item())
