"""The objectives that robopref knows, one row each.

The equations use the letters of the modules: h = s_w - s_l, s() logistic, ls() its log, r a single score,
psi a label of a list, k a sequential KL, e a squared error.
"""

from typing import Any

from robopref.objectives.description import Objective

Row = tuple[str, str, str, str]  # name, function, equation, source


def _all(
    labels: str, score: str, rows: list[Row], *, reference: bool = True, **further: Any
) -> list[Objective]:
    return [
        Objective(name, function, labels, reference, score, equation, source, **further)
        for name, function, equation, source in rows
    ]


PAIRS = [
    *_all(
        "soft pairs",
        "sum",
        [
            ("dpo", "pairs.bradley_terry", "-ls(h)", "Bradley and Terry 1952; Rafailov et al. 2023; GRAPE"),
            ("cdpo", "pairs.conservative", "-(1-e) ls(h) - e ls(-h)", "Mitchell 2023"),
            ("robust", "pairs.robust", "(-(1-e) ls(h) + e ls(-h)) / (1-2e)", "Chowdhury et al. 2024"),
            ("flip_likelihood", "people.flip_likelihood", "-log[(1-e) s(h) + e s(-h)]", "own"),
            ("hinge", "pairs.hinge", "max(0, 1 - h)", "SLiC, Zhao et al. 2023"),
            ("smooth_hinge", "people.smooth_hinge", "(1-h)^2 / 2g, then linear", "PAL's code"),
            ("exo", "pairs.exo", "KL([s(h), s(-h)] || [1-e, e])", "Ji et al. 2024"),
            ("nca", "pairs.nca", "-ls(s_w) - (ls(-s_w) + ls(-s_l)) / 2", "Chen et al. 2024"),
            ("bco_pair", "pairs.bco_pair", "-ls(s_w) - ls(-s_l)", "Jung et al. 2024, as in TRL's code"),
            ("sppo", "pairs.sppo", "(s_w/b - 1/2t)^2 + (s_l/b + 1/2t)^2", "Wu et al. 2024, hard form"),
            ("apo_zero", "pairs.apo_zero", "1 - s(s_w) + s(s_l)", "D'Oosterlinck et al. 2024"),
            ("apo_down", "pairs.apo_down", "s(s_w) + 1 - s(h)", "D'Oosterlinck et al. 2024"),
            ("discopop", "pairs.discopop", "(1-m)(-ls(h)) + m e^-h, m = s(h/0.05)", "Lu et al. 2024"),
            ("sigmoid_link", "pairs.sigmoid_link", "-s(h)", "DeformPAM's code"),
            ("margin", "pairs.margin", "-ls(h - m) + c (s_w + s_l)^2", "Llama 2; Eisenstein et al. 2023"),
            ("bt_direction", "pairs.directed", "-ls(h) - ls(s_w) - ls(-s_l)", "Eurus, Yuan et al. 2024"),
        ],
    ),
    *_all("soft pairs", "mean", [("ipo", "pairs.ipo", "(h/b - 1/2t)^2", "Azar et al. 2023")]),
    *_all(
        "soft pairs",
        "mean",
        [("ln_dpo", "pairs.bradley_terry", "-ls(h) of mean log-ratios", "Hitchhiker's Guide")],
        policy_only="of a reward model's mean over steps it is dpo with reward.aggregate=mean",
    ),
    *_all(
        "soft pairs",
        "power",
        [("dpo_gamma", "pairs.bradley_terry", "-ls(h), reference^gamma", "Chen et al. 2024")],
        policy_only="it weighs a reference, which a reward model has not",
    ),
    *_all(
        "soft pairs",
        "sum",
        [("f_dpo", "divergences.f_dpo", "-ls(b f'(u_w) - b f'(u_l))", "f-DPO, Wang et al. 2023")],
        policy_only="a divergence is from a reference, which a reward model has not",
    ),
    *_all(
        "soft pairs",
        "sum",
        [
            (
                "rpro",
                "pairs.proximal",
                "-ls(h) - sum (ls(s) + ls(-s))/2 + w imitation_w",
                "FlowPRO / HyVLA-0.5",
            )
        ],
        extra="imitation",
    ),
    *_all(
        "soft pairs",
        "likelihood",
        [("cpl", "pairs.contrastive", "-ls(s_w - bias s_l)", "Hejna et al. 2023")],
        reference=False,
    ),
    *_all(
        "soft pairs",
        "likelihood",
        [("cpo", "reference_free.cpo", "-ls(b (lp_w - lp_l)) - lp_w", "Xu et al. 2024")],
        reference=False,
        scales=True,
    ),
    *_all(
        "soft pairs",
        "mean likelihood",
        [("simpo", "reference_free.simpo", "-ls(b (lp_w - lp_l) - g) of means", "Meng et al. 2024; AlphaPO")],
        reference=False,
        scales=True,
    ),
    *_all(
        "soft pairs",
        "likelihood",
        [("triple", "reference_free.triple", "-ls(b (lp_w - lp_l)) + a NLL(demo)", "Saeidi et al. 2024")],
        reference=False,
        scales=True,
        extra="demonstration",
    ),
    *_all(
        "soft pairs",
        "mean likelihood",
        [("orpo", "reference_free.orpo", "-lp_w - b ls(log odds ratio)", "Hong et al. 2024")],
        reference=False,
        scales=True,
        tokens_only=True,
    ),
    *_all(
        "hard pairs",
        "likelihood",
        [("aot", "sorted_pairs.aot", "-ls(sorted margins - sorted reference margins)", "Melnyk et al. 2024")],
        per_pair=False,
        extra="reference margin",
    ),
    *_all(
        "hard pairs",
        "sum",
        [("aot_unpaired", "sorted_pairs.aot_unpaired", "-ls(sorted s_w - sorted s_l)", "Melnyk et al. 2024")],
        per_pair=False,
    ),
]
LISTS = [
    *_all(
        "lists",
        "sum",
        [
            (
                "ranknet",
                "lists.ranknet",
                "sum over psi_i > psi_j of -ls(s_i - s_j)",
                "Burges et al. 2005; MORE",
            ),
            (
                "plackett_luce",
                "lists.plackett_luce",
                "-sum_k [s_(k) - lse of the rest]",
                "ListMLE; DPO, list form",
            ),
            ("listnet", "lists.listnet", "-sum softmax(psi) log softmax(s)", "Cao et al. 2007"),
            (
                "lipo_lambda",
                "lists.lipo_lambda",
                "sum D_ij softplus(s_j - s_i)",
                "Liu et al. 2024; LambdaRank",
            ),
            ("hinge_list", "lists.hinge_list", "sum max(0, 1 - (s_i - s_j))", "SLiC over a list"),
        ],
    ),
    *_all(
        "lists", "mean", [("trpa", "lists.levels", "mean a_i -ls(s_i - s_j) across levels", "TRPA's code")]
    ),
    *_all(
        "lists",
        "mean likelihood",
        [("one_versus_many", "lists.one_versus_many", "mean_j -ls(s_best - s_j - m)", "variant after LOGO")],
        reference=False,
    ),
]
UNPAIRED = [
    *_all(
        "up/down",
        "sum",
        [
            ("kto", "unpaired.kto", "up s(z0 - r), down s(r - z0)", "Ethayarajh et al. 2024"),
            (
                "apo_zero_unpaired",
                "unpaired.apo_zero_unpaired",
                "up s(-r), down s(r)",
                "D'Oosterlinck et al. 2024",
            ),
            ("bco", "unpaired.bco", "up -ls(r - d), down -ls(d - r)", "Jung et al. 2024"),
            ("nft", "unpaired.nft", "up -ls(r), down -ls(-r)", "NFT, RLinf's dpo form"),
        ],
    ),
    *_all(
        "up/down",
        "sum",
        [("seppo", "diffusion.seppo", "-ls(s_demo -+ s_sample)", "variant after Zhang et al. 2024")],
        extra="roles",
    ),
    *_all(
        "up/down",
        "mean likelihood",
        [("unlikelihood", "unpaired.unlikelihood", "up -lp, down -log(1-p)", "Welleck et al. 2019")],
        reference=False,
        tokens_only=True,
    ),
    *_all(
        "rewards",
        "likelihood",
        [
            ("rwr", "unpaired.rwr", "-exp(r/t) lp", "Peters and Schaal 2007"),
            ("awr", "unpaired.awr", "-min(exp(A/t), c) lp", "Peng et al. 2019"),
        ],
        reference=False,
        scales=True,
        extra="rewards",
    ),
    *_all(
        "up/down",
        "likelihood",
        [("conditional_bc", "unpaired.conditional_bc", "-lp given a token", "RECAP; Korbak et al. 2023")],
        reference=False,
        scales=True,
        extra="goal",
    ),
]
INSIDE = [
    *_all(
        "per-token",
        "sum",
        [
            ("tdpo1", "tokens.tdpo1", "-ls(h - b (k_l - k_w))", "Zeng et al. 2024"),
            ("tdpo2", "tokens.tdpo2", "-ls(h - a b (k_l - sg(k_w)))", "Zeng et al. 2024"),
            ("rrpo", "tokens.rrpo", "-ls(h over differing parts) + a k_w", "Sarkar et al. 2025, their code"),
        ],
        extra="kl",
    ),
    *_all(
        "per-token",
        "sum",
        [
            (
                "sparse_po",
                "tokens.sparse_po",
                "tdpo2 of gated sums",
                "variant after Christopoulou et al. 2024",
            ),
        ],
        extra="steps",
    ),
    *_all(
        "soft pairs",
        "error",
        [
            (
                "diffusion_dpo",
                "diffusion.diffusion_dpo",
                "-ls(-b/2 [(e_w-e_l) - (e_w-e_l)_ref])",
                "Wallace et al. 2023",
            ),
        ],
        extra="errors",
    ),
    *_all(
        "soft pairs",
        "error",
        [("inpo", "diffusion.diffusion_dpo", "diffusion_dpo on inverted noise", "InPO, 2025")],
        extra="inverted noise",
    ),
    *_all(
        "rewards",
        "mean error",
        [("ac_flow", "diffusion.ac_flow", "exp(clip(A)/t) |v-u|^2 + a |v-v_ref|^2", "after AC-Flow")],
        scales=True,
        extra="errors",
    ),
    *_all(
        "up/down",
        "mean error",
        [("nft_flow", "diffusion.nft_flow", "y |v+ - u|^2 + (1-y) |v- - u|^2", "DiffusionNFT")],
        scales=True,
        extra="errors",
    ),
    *_all(
        "none",
        "likelihood",
        [
            ("sami", "contrast.mutual_information", "InfoNCE over rows and columns", "Fraenken et al. 2024"),
            ("mapl", "contrast.same_behaviour", "-ls(R(x_w, tau) - R(x_l, tau))", "MAPL"),
        ],
        reference=False,
        extra="contexts",
    ),
]
ENTRIES = (*PAIRS, *LISTS, *UNPAIRED, *INSIDE)
