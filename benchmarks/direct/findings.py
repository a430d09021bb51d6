"""What the numbers say, written by hand when they were there."""

READ = "Read off the run of November 2026 (440 cells, seeds 0 to 4) by hand; the tables are those of the newest run:"
"""What the findings are of, since a new run changes the tables alone."""

FINDINGS: tuple[str, ...] = (
    "**A likelihood term pays.** At equal seconds CPO is the one method with more gold than DPO (+0.29 "
    "[+0.12, +0.47]); at equal KL CPO (+0.30 [+0.15, +0.45]) and ORPO (+0.19 [+0.08, +0.29]) are ahead, at "
    "three budgets still (+0.33 [+0.09, +0.58] and +0.58 [+0.30, +0.85]). They keep the language (grammar "
    "0.92 and 0.93, DPO 0.86; ORPO +0.07 [+0.02, +0.11]), their updates cost 0.7 of DPO's, since nothing is "
    "computed for a reference, and CPO varies least from seed to seed. DPO with an SFT term stays near the "
    "start (KL 0.24 against 1.03) with about as much gold.",
    "**Online against offline.** With three budgets online DPO with new labels gains most of all: 1.12 gold "
    "at 1.2 nats with grammar 0.94, where offline DPO (β = 0.3 too) has 0.97 at 2.3 nats with 0.82: gold "
    "+0.14 [−0.03, +0.31], grammar +0.12 [+0.06, +0.18], gold at the same KL +0.53 [+0.26, +0.80]. It asks "
    "for 3,136 labels, offline DPO has 2,000 and goes over them four times. With one budget (1,024 new labels "
    "against 2,000) nothing is gained: −0.04 [−0.08, −0.01] at 0.25 nats, −0.06 [−0.21, +0.09] at 0.5.",
    "**A judge that never errs holds nothing.** Online DPO judged by a reward model (β = 0.1) goes 10 nats "
    "away, with gold 0.05 [−1.31, +1.41]; DPO at β = 0.1, four passes over the same labels, as far (grammar "
    "0.64 on average). At β = 0.3 DPO does not (KL 2.3).",
    "**PPO.** Its reward model takes half of the small budget. There no difference to DPO in gold is shown "
    "(−0.10 [−0.53, +0.34]); on real text its implicit reward is less accurate (BLiMP −0.08 [−0.14, −0.01], "
    "debates −0.18 [−0.29, −0.08], under 0.5). With three budgets it comes to 0.59, DPO at β = 0.3 to 0.97, "
    "CPO to 0.81; these intervals do not exclude 0 (+0.39 [−0.18, +0.96] for DPO). A gain of 0.5 takes 6.8 "
    "CPU seconds, with CPO 1.4. Its longer runs elsewhere (`ppo_studies.md`, 47 seconds) do better.",
    "**From the reward alone**, three budgets: best of 8, learnt, has 0.70 gold at 1.1 nats with grammar 0.91 "
    "(minus PPO +0.11 [−0.02, +0.25]); reward-weighted regression 0.50 at 0.7 nats. Expert iteration, which "
    "has no price of KL, lost the language on most seeds (−2.87).",
    "**Most of the family is one method here.** cDPO, robust, IPO, BCO, NCA, SPPO and AOT are within a tenth "
    "of DPO's gold, and no difference is shown; what differs is how far they go at a β. KTO (−0.20 [−0.30, "
    "−0.10] at its own KL, 1.5 times the cost) and DiscoPOP (−0.24 [−0.48, −0.00]) are behind; apo_down loses "
    "the language at both tries.",
    "**Flipped labels** cost DPO 0.57 [0.11, 1.02] of gold, CPO 0.37 [0.32, 0.42], ORPO 0.31 [0.23, 0.39]. "
    "That robust (−0.13 [−0.33, +0.07]) or cDPO (+0.19 [−0.12, +0.51]), told the share, help over DPO is not "
    "shown in gold; nor that CPO does (+0.49 [−0.08, +1.05]).",
    "**Rankings:** Plackett-Luce, all pairs, best against worst, and pairs as rows of their own order the "
    "held-out debates alike (0.53 to 0.56); no difference is shown. Best against worst goes further from the "
    "start for it (KL 6.0 against 3.8).",
    "**Votes:** soft targets, majority, label smoothing and robust cannot be told apart (0.54 to 0.56 on "
    "single votes; every interval includes 0), with votes as they are and with a quarter turned round.",
    "**Real text:** on BLiMP every direct method comes from 0.50 to between 0.62 and 0.65; without a "
    "likelihood term or IPO's target samples are then 30 nats from the start (DPO 34, SimPO 36; ORPO and DPO "
    "with an SFT term 1.9; IPO 7). On the debates ORPO orders a little better than DPO (+0.04 [+0.01, +0.08], "
    "0.67), and with flips cDPO does (+0.03 [+0.00, +0.06], 0.57).",
)
LIMITS: tuple[str, ...] = (
    "Small models, few pairs, seconds of training. The order of methods can change with size, data and time; "
    "what a large model needs is not shown.",
    "Two tries a method, on one seed; for most the larger β (0.1) was the better one, and larger ones were "
    "not tried but for DPO. One learning rate for all losses. Real text takes the demo world's settings, at "
    "which β = 0.1 is too loose on BLiMP.",
    "Five seeds, intervals uncorrected. Of the 22 differences to DPO in gold, clean, only that of apo_down "
    "outlives a Bonferroni correction over them.",
    "Costs were measured in turns on a busy machine, those of iterations to some 20 % (spread in the table); "
    "a sampled response costs what this sampler takes on a CPU.",
    "Under More time both runs at β = 0.3 were added after β = 0.1 was seen to fail on the study's seeds. "
    "Online and offline DPO are equal there in seconds, not in labels.",
    "Gold at the same KL is read between a few points of each seed. DPO's way to its end is one of a rate "
    "that falls.",
    "Real text has no gold reward: the accuracy of the implicit reward says nothing of samples, which nobody "
    "judged. Arguments are cut at 64 tokens (48), which hides their length from the models.",
    "Not run: Plackett-Luce on pairs (there it is the sigmoid loss), flips for thirteen methods, on real text "
    "the methods that the tables lack, online DPO and learning from the reward alone on real text, K > 2.",
)
