"""Every objective by name: what it takes, whether it needs a reference, and where it comes from.

Adding one is a pure function, an entry here and a test. Code outside of robopref adds its own with
:func:`register`. The equations use the letters of the modules: h = s_w - s_l, s() logistic, ls() its log,
r a single score, psi a label of a list, k a sequential KL, e a squared error.

Letters used in shapes: B examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from robopref.errors import ConfigError, unknown_name
from robopref.objectives import (
    contrast,
    diffusion,
    lists,
    pairs,
    people,
    reference_free,
    sorted_pairs,
    tokens,
    unpaired,
)
from robopref.objectives.reduction import reduce_losses

LABELS = {
    "soft pairs": "(score_a, score_b, labels): chance in [0, 1] that the first is better",
    "hard pairs": "(score_a, score_b, labels): 1 or 0, without ties",
    "lists": "(scores, labels, mask): grades of any scale, best highest",
    "up/down": "(scores, labels): chance in [0, 1] that the behaviour is good",
    "rewards": "(log-likelihoods, rewards or advantages)",
    "per-token": "(score_a, score_b, labels, ...): soft pairs with one KL or gate per token",
    "none": "no label: the contrast is built from contexts",
}
SCORES = {
    "sum": "beta times the log-ratio summed over steps, or a return",
    "mean": "the log-ratio averaged over steps",
    "power": "beta times the summed log-ratio with the reference to the power gamma",
    "likelihood": "log-likelihood, no reference",
    "error": "squared errors of policy and reference",
}


@dataclass(frozen=True)
class Objective:
    """One objective: a pure function with its description.

    Attributes:
        name: What a config says.
        loss: Pure function of scores and labels that returns one loss per example.
        labels: A key of ``LABELS``.
        needs_reference: Whether its scores compare with a frozen reference when the model is a policy. A
            reward model never needs one.
        score: A key of ``SCORES``: which adapter of :mod:`robopref.objectives.scores` to use.
        equation: The loss of a preferred w over l, as one line of text.
        source: Paper or code.
        per_pair: Whether an entry of the result belongs to a pair, and so may be weighed.
    """

    name: str
    loss: Callable[..., Tensor]
    labels: str
    needs_reference: bool
    score: str
    equation: str
    source: str
    per_pair: bool = True

    def __post_init__(self):
        """Refuse kinds of labels and scores that do not exist."""
        if self.labels not in LABELS:
            raise ConfigError(unknown_name("kind of labels", self.labels, LABELS))
        if self.score not in SCORES:
            raise ConfigError(unknown_name("score", self.score, SCORES))

    def __call__(
        self,
        *inputs: Tensor | tuple[Tensor, Tensor] | None,
        weights: Float[Tensor, " *B"] | None = None,
        reduction: str = "mean",
        **options: object,
    ) -> Float[Tensor, "..."]:
        """Loss of a batch, weighed and reduced; ``options`` go to the function.

        Raises:
            ConfigError: Weights are given to a loss that sorts the batch.
        """
        if weights is not None and not self.per_pair:
            raise ConfigError(f"{self.name} compares sorted batches, so weights per pair mean nothing to it.")
        return reduce_losses(self.loss(*inputs, **options), weights, reduction)


REGISTRY: dict[str, Objective] = {}


def register(objective: Objective) -> None:
    """Make an objective known by its name.

    Raises:
        ConfigError: The name is taken.
    """
    if objective.name in REGISTRY:
        raise ConfigError(
            f"An objective called '{objective.name}' exists already: {REGISTRY[objective.name].source}."
        )
    REGISTRY[objective.name] = objective


def find(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    if name not in REGISTRY:
        raise ConfigError(unknown_name("objective", name, REGISTRY))
    return REGISTRY[name]


def _add(
    labels: str,
    needs_reference: bool,
    score: str,
    *entries: tuple[str, Callable[..., Tensor], str, str],
    per_pair: bool = True,
) -> None:
    for name, loss, equation, source in entries:
        register(Objective(name, loss, labels, needs_reference, score, equation, source, per_pair))


_add(
    "soft pairs",
    True,
    "sum",
    ("dpo", pairs.bradley_terry, "-ls(h)", "Rafailov et al. 2023; Bradley and Terry 1952; TPO of GRAPE"),
    ("cdpo", pairs.conservative, "-(1-e) ls(h) - e ls(-h)", "Mitchell 2023"),
    ("robust", pairs.robust, "(-(1-e) ls(h) + e ls(-h)) / (1-2e)", "Chowdhury et al. 2024"),
    ("flip_likelihood", people.flip_likelihood, "-log[(1-e) s(h) + e s(-h)]", "own; annotators' flip rates"),
    ("hinge", pairs.hinge, "max(0, 1 - h)", "SLiC, Zhao et al. 2023"),
    ("smooth_hinge", people.smooth_hinge, "(1-h)^2 / 2g, then linear", "PAL's code"),
    ("exo", pairs.exo, "KL([s(h), s(-h)] || [1-e, e])", "Ji et al. 2024"),
    ("nca", pairs.nca, "-ls(s_w) - (ls(-s_w) + ls(-s_l)) / 2", "Chen et al. 2024"),
    ("bco_pair", pairs.bco_pair, "-ls(s_w) - ls(-s_l)", "Jung et al. 2024, as in TRL's code"),
    ("sppo", pairs.sppo, "(s_w/b - 1/2t)^2 + (s_l/b + 1/2t)^2", "Wu et al. 2024, hard form"),
    ("apo_zero", pairs.apo_zero, "1 - s(s_w) + s(s_l)", "D'Oosterlinck et al. 2024"),
    ("apo_down", pairs.apo_down, "s(s_w) + 1 - s(h)", "D'Oosterlinck et al. 2024"),
    ("discopop", pairs.discopop, "(1-m)(-ls(h)) + m e^-h, m = s(h/0.05)", "Lu et al. 2024"),
    ("sigmoid_link", pairs.sigmoid_link, "-s(h)", "DeformPAM's code"),
    ("margin", pairs.margin, "-ls(h - m) + c (s_w + s_l)^2", "Llama 2; Eisenstein et al. 2023"),
    ("bt_direction", pairs.directed, "-ls(h) - ls(s_w) - ls(-s_l)", "Eurus, Yuan et al. 2024"),
    ("rpro", pairs.proximal, "-ls(h) - sum (ls(s) + ls(-s))/2 + w imitation_w", "FlowPRO / HyVLA-0.5"),
)
_add(
    "soft pairs",
    True,
    "mean",
    ("ipo", pairs.ipo, "(h/b - 1/2t)^2", "Azar et al. 2023"),
    ("ln_dpo", pairs.bradley_terry, "-ls(h) of mean log-ratios", "Hitchhiker's Guide; TRL sigmoid_norm"),
)
_add(
    "soft pairs",
    True,
    "power",
    ("dpo_gamma", pairs.bradley_terry, "-ls(h), reference^gamma", "Chen et al. 2024"),
)
_add(
    "hard pairs",
    True,
    "sum",
    ("aot", sorted_pairs.aot, "-ls(sorted margins - sorted reference margins)", "Melnyk et al. 2024"),
    ("aot_unpaired", sorted_pairs.aot_unpaired, "-ls(sorted s_w - sorted s_l)", "Melnyk et al. 2024"),
    per_pair=False,
)
_add(
    "soft pairs",
    False,
    "likelihood",
    ("cpl", pairs.contrastive, "-ls(s_w - bias s_l)", "Hejna et al. 2023"),
    ("cpo", reference_free.cpo, "-ls(b (lp_w - lp_l)) - lp_w", "Xu et al. 2024"),
    ("simpo", reference_free.simpo, "-ls(b (lp_w - lp_l) - g) of means", "Meng et al. 2024; AlphaPO"),
    ("triple", reference_free.triple, "-ls(b (lp_w - lp_l)) + a NLL(demo)", "Saeidi et al. 2024"),
    ("orpo", reference_free.orpo, "-lp_w - b ls(log odds ratio)", "Hong et al. 2024; token policies only"),
)
_add(
    "lists",
    True,
    "sum",
    ("ranknet", lists.ranknet, "sum over psi_i > psi_j of -ls(s_i - s_j)", "Burges et al. 2005; MORE"),
    ("plackett_luce", lists.plackett_luce, "-sum_k [s_(k) - lse of the rest]", "ListMLE; DPO, list form"),
    ("listnet", lists.listnet, "-sum softmax(psi) log softmax(s)", "Cao et al. 2007"),
    (
        "lipo_lambda",
        lists.lipo_lambda,
        "sum D_ij softplus(s_j - s_i)",
        "Liu et al. 2024; constants of LambdaRank",
    ),
    ("hinge_list", lists.hinge_list, "sum max(0, 1 - (s_i - s_j))", "SLiC over a list"),
)
_add("lists", True, "mean", ("trpa", lists.levels, "mean a_i -ls(s_i - s_j) across levels", "TRPA's code"))
_add(
    "lists",
    False,
    "likelihood",
    ("one_versus_many", lists.one_versus_many, "mean_j -ls(s_best - s_j - m)", "variant after LOGO"),
)
_add(
    "up/down",
    True,
    "sum",
    ("kto", unpaired.kto, "up s(z0 - r), down s(r - z0)", "Ethayarajh et al. 2024"),
    ("apo_zero_unpaired", unpaired.apo_zero_unpaired, "up s(-r), down s(r)", "D'Oosterlinck et al. 2024"),
    ("bco", unpaired.bco, "up -ls(r - d), down -ls(d - r)", "Jung et al. 2024"),
    ("nft", unpaired.nft, "up -ls(r), down -ls(-r)", "NFT, RLinf's dpo form"),
    ("seppo", diffusion.seppo, "-ls(s_demo -+ s_sample)", "variant after Zhang et al. 2024"),
)
_add(
    "up/down",
    False,
    "likelihood",
    ("unlikelihood", unpaired.unlikelihood, "up -lp, down -log(1-p)", "Welleck 2019"),
)
_add(
    "rewards",
    False,
    "likelihood",
    ("rwr", unpaired.rwr, "-exp(r/t) lp", "Peters and Schaal 2007"),
    ("awr", unpaired.awr, "-min(exp(A/t), c) lp", "Peng et al. 2019"),
)
_add(
    "none",
    False,
    "likelihood",
    ("conditional_bc", unpaired.conditional_bc, "-lp given a token", "RECAP; Korbak 2023"),
)
_add(
    "per-token",
    True,
    "sum",
    ("tdpo1", tokens.tdpo1, "-ls(h - b (k_l - k_w))", "Zeng et al. 2024"),
    ("tdpo2", tokens.tdpo2, "-ls(h - a b (k_l - sg(k_w)))", "Zeng et al. 2024"),
    ("sparse_po", tokens.sparse_po, "tdpo2 of gated sums", "variant after Christopoulou et al. 2024"),
    ("rrpo", tokens.rrpo, "-ls(h over differing parts) + a k_w", "Sarkar et al. 2025, their code"),
)
_add(
    "soft pairs",
    True,
    "error",
    (
        "diffusion_dpo",
        diffusion.diffusion_dpo,
        "-ls(-b/2 [(e_w - e_l) - (e_w - e_l)_ref])",
        "Wallace et al. 2023",
    ),
    ("inpo", diffusion.diffusion_dpo, "diffusion_dpo on inverted noise", "InPO, 2025"),
)
_add(
    "rewards",
    True,
    "error",
    ("ac_flow", diffusion.ac_flow, "exp(clip(A)/t) |v-u|^2 + a |v-v_ref|^2", "after AC-Flow"),
)
_add(
    "up/down",
    True,
    "error",
    ("nft_flow", diffusion.nft_flow, "y |v+ - u|^2 + (1-y) |v- - u|^2", "DiffusionNFT"),
)
_add(
    "none",
    False,
    "likelihood",
    ("sami", contrast.mutual_information, "InfoNCE over rows and columns", "Fraenken et al. 2024"),
    ("mapl", contrast.same_behaviour, "-ls(R(x_w, tau) - R(x_l, tau))", "MAPL"),
)
