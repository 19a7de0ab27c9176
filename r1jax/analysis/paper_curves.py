"""DeepSeek-R1-Zero's published training curves, to set beside those of a run.

Read off Figures 2 and 3 of arXiv 2501.12948v1 (the PDF in deepseek-ai/DeepSeek-R1, MIT licence),
which are bitmaps; the numbers were published in no other form.

Accuracy on AIME 2024, all 35 checkpoints drawn. The plotted pass@1 fall on multiples of 1/480
(30 questions x 16 samples) and cons@16 on multiples of 1/150, to within the reading error, so the
counts stand here. The cons@16 markers of steps 7000, 7400 and 8200 lie under another line and
were read by eye. The text gives the ends of pass@1 as 15.6% and 71.0%.

Response length is the smoothed mean (the dark line) at every 300th step, in tokens, with a
reading error of about 60 tokens; it fluctuates between these points as much as among them.

Counts of reflective terms were drawn (Nature 645:633, Extended Data Fig. 1) but not published as
numbers: the article says that they rise 5-7x.
"""

# (step, pass@1 in 480ths, cons@16 in 150ths)
_AIME_COUNTS = (
    (200, 75, 38),
    (400, 108, 51),
    (600, 118, 47),
    (800, 138, 52),
    (1000, 152, 67),
    (1200, 178, 85),
    (1400, 198, 83),
    (1600, 181, 73),
    (2000, 183, 82),
    (2400, 233, 92),
    (2800, 254, 110),
    (3200, 246, 103),
    (3600, 280, 115),
    (4000, 288, 115),
    (4200, 289, 110),
    (4400, 268, 115),
    (4600, 278, 104),
    (4800, 273, 110),
    (5000, 259, 106),
    (5200, 303, 117),
    (5400, 276, 109),
    (5600, 283, 120),
    (5800, 296, 120),
    (6000, 309, 117),
    (6200, 300, 120),
    (6400, 330, 130),
    (6800, 318, 115),
    (7000, 329, 125),
    (7200, 313, 120),
    (7400, 325, 125),
    (7600, 323, 122),
    (7800, 321, 121),
    (8000, 330, 123),
    (8200, 325, 125),
    (8400, 341, 130),
)

# (step, pass@1, cons@16), accuracies in [0, 1]
AIME = tuple((step, passed / 480, agreed / 150) for step, passed, agreed in _AIME_COUNTS)

# (step, mean tokens a response)
RESPONSE_LENGTH = (
    (0, 555),
    (300, 749),
    (600, 1095),
    (900, 1434),
    (1200, 1350),
    (1500, 1838),
    (1800, 2557),
    (2100, 2260),
    (2400, 2390),
    (2700, 3346),
    (3000, 3227),
    (3300, 4269),
    (3600, 3761),
    (3900, 3903),
    (4200, 4798),
    (4500, 5557),
    (4800, 4886),
    (5100, 5336),
    (5400, 5374),
    (5700, 4944),
    (6000, 6032),
    (6300, 6039),
    (6600, 6093),
    (6900, 7167),
    (7200, 6606),
    (7500, 8455),
    (7800, 7733),
    (8100, 8218),
    (8400, 9555),
)

# How many times more reflective terms are counted late in training than at its start: the article's
# "5- to 7-fold".
REFLECTION_RISE = (5.0, 7.0)
