"""Texts: what the tiny tokenizers are trained on, and awkward ones that every tokenizer must get right."""

TRAINING = (
    """\
The river runs past the old mill, and the miller's daughter counts the boats that go by.
There isn't a bridge for ten miles; they've asked for one since 1897, and it hasn't come.
When the water rises above 3.75 metres, the lower road is closed and the school stays shut.
"How long will it last?" she asked. "Two days," he said, "or perhaps three. I'd say three."
In the morning the fields were white with frost and the smoke of the houses stood straight up.
He read the letter again, folded it twice, and put it back into the drawer under the window.
The price of bread rose from 12 to 15 pence, that of coal from 240 to 312 and more.
Nobody knows who built the tower. Some say the monks did; others say that it was there before them.
"""
    """\
def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

if __name__ == "__main__":
    print(mean([1, 2, 3, 4.5]))
"""
    """\
Der Fluß fließt an der alten Mühle vorbei, und die Tochter des Müllers zählt die Boote.
La rivière passe près du vieux moulin; l'été, on y voit des hérons et des canards.
El río pasa junto al viejo molino, y la niña cuenta los barcos que bajan hacia el mar.
Река течёт мимо старой мельницы, и дочь мельника считает лодки.
河水流过古老的磨坊，磨坊主的女儿数着船只。川は古い水車小屋のそばを流れています。
강물은 오래된 방앗간을 지나 흐르고 있다.
"""
).splitlines(keepends=True)

AWKWARD = [
    "",
    " ",
    "Hello, world!",
    " leading space and trailing space ",
    "two  spaces,   three   spaces\tand\ttabs\t\t.",
    "line\nbreaks\n\nand\r\ncarriage returns\n \n  end",
    "I'm you're he'll WE'VE they'd isn't IT'S O'Reilly",
    "1 12 123 1234 12345 3.14159 1,000,000 2024-05-06",
    "naïve café Straße ﬁne Å Å é ½ ² Ⅷ",
    "Привет, мир! Как дела?",
    "你好，世界。日本語のテキスト、한국어 문장.",
    "नमस्ते दुनिया ภาษาไทย العربية עברית",
    "emoji 😀 👩‍👩‍👧‍👦 🇫🇷 ✈️ done",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2; } // comment",
    '<html><body class="x">&amp;</body></html>',
    "a_b-c.d/e\\f:g;h?i!j@k#l$m%n^o&p*q(r)s[t]u{v}w|x~y`z",
    "zero​width and\u00a0no-break\u2003em space",
    "ＡＢＣ full width, ligature ﬀ, ohm Ω, kelvin K",
    "CamelCaseWords and SCREAMING_CASE and x86_64",
    "ends with newline\n",
]
