"""The awkward lines that tokenizers are compared on.  Same lines on every run (fixed seed).

lines() gives texts (valid Unicode), byte_lines() gives bytes that are not valid UTF-8.
"""
import random
import unicodedata

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Der Zug nach Köln fährt um 17:45 Uhr von Gleis 3 ab; größere Koffer gehören nach hinten.",
    "Où est passé l'été ? Peut-être qu'il n'est jamais venu…",
    "El niño pequeño comió una piña; ¿cuánto costó? ¡Sólo 3,50 €!",
    "Být či nebýt, to je oč tu běží — příliš žluťoučký kůň.",
    "Zażółć gęślą jaźń, rzekł Łukasz do Ćwiklińskiej.",
    "Yarın İstanbul'da ılık bir gün olacak, ığdır ise soğuk.",
    "Þetta er íslenskur texti með ð og æ, öll að tarna.",
    "Ngày mai trời sẽ mưa ở thành phố Hồ Chí Minh, phải không?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Їжак із ґанку побачив щось незвичне: «Хто там?»",
    "Ο γρήγορος σκύλος πήδηξε πάνω από τον τεμπέλη· ΌΧΙ!",
    "השועל החום המהיר קופץ מעל הכלב העצלן, נכון?",
    "שָׁלוֹם עֲלֵיכֶם עם ניקוד",
    "الثعلب البني السريع يقفز فوق الكلب الكسول، أليس كذلك؟",
    "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ ١٢٣٤٥٦٧٨٩٠",
    "آیا فردا هوا در تهران بارانی است؟ می‌خواهم بدانم ۱۲۳",
    "یہ اردو کا ایک جملہ ہے۔",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। १२३ क्षेत्रज्ञ",
    "দ্রুত বাদামী শিয়াল অলস কুকুরের উপর লাফ দেয়। ৪৫৬",
    "ਤੇਜ਼ ਭੂਰੀ ਲੂੰਬੜੀ ਆਲਸੀ ਕੁੱਤੇ ਉੱਤੇ ਛਾਲ ਮਾਰਦੀ ਹੈ।",
    "ઝડપી ભૂરું શિયાળ આળસુ કૂતરા પર કૂદે છે.",
    "விரைவான பழுப்பு நரி சோம்பேறி நாய் மீது தாவுகிறது. ௧௨௩",
    "వేగవంతమైన గోధుమ నక్క సోమరి కుక్క మీదుగా దూకుతుంది.",
    "ವೇಗದ ಕಂದು ನರಿ ಸೋಮಾರಿ ನಾಯಿಯ ಮೇಲೆ ಹಾರುತ್ತದೆ.",
    "വേഗതയുള്ള തവിട്ട് കുറുക്കൻ മടിയൻ നായയുടെ മുകളിലൂടെ ചാടുന്നു.",
    "වේගවත් දුඹුරු නරියා කම්මැලි බල්ලා මතින් පනියි.",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ ๑๒๓ น้ำ",
    "ໝາຈິ້ງຈອກສີນ້ຳຕານໂດດຂ້າມໝາຂີ້ຄ້ານ",
    "မြန်မာဘာသာစကားဖြင့် ရေးထားသော စာကြောင်း။",
    "កញ្ជ្រោងពណ៌ត្នោតលោតរំលងឆ្កែខ្ជិល។",
    "སྤྱང་ཀི་སྨུག་པོ་མྱུར་པོ་ཁྱི་སྒྱིད་ལུག་གི་སྟེང་ནས་མཆོངས།",
    "敏捷的棕色狐狸跳过了懒狗，不是吗？第１２３号。",
    "敏捷的棕色狐狸跳過了懶狗「是嗎？」他問道。",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがな、ｶﾀｶﾅも。",
    "がぎぐげご がぎぐげご パピプペポ ハ゜ヒ゜",
    "빠른 갈색 여우가 게으른 개를 뛰어넘습니다. 그렇죠?",
    "빠른 갈색 여우",
    "Սովորական նախադասություն հայերենով։ Այո՞։",
    "სწრაფი ყავისფერი მელა გადაახტა ზარმაც ძაღლს.",
    "ፈጣኑ ቡናማ ቀበሮ በሰነፉ ውሻ ላይ ይዘላል። ፩፪፫",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ꭳꮝꭷꮿ",
    "ᐃᓄᒃᑎᑐᑦ ᐅᖃᐅᓯᖅ",
    "ᚠᚢᚦᚨᚱᚲ ᛗᚨᚾᚾᚨᛉ",
    "𐌰𐌱𐌲𐌳 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𝒳² 𓀀𓁐 𒀀𒁀",
    "ⴰⵣⵓⵍ ⵉⵎⴰⵣⵉⵖⵏ",
    "ᠮᠣᠩᠭᠣᠯ᠎ᠠ ᠪᠢᠴᠢᠭ",
    "Ω Å K Å ﬁ ﬂ ﬀ ½ ² ³ № ℡ ™ Ⅷ ⅷ ① ㋿ ㍿",
    "E = mc² ∀x∈ℝ: ∃y ≥ √x ∧ ∫₀^∞ e^{-x²}dx = ½√π ∎",
    "a+b=c; a−b≠c; 1×2÷3±4 ≈ ∞ ‰ ‱",
    "€100 £20 ¥3000 ₹50 ₿0.001 ¢99 ₺7",
    "“curly” ‘quotes’ «guillemets» „low“ 'straight' \"double\" `tick` ´acute´",
    "en–dash em—dash hyphen-minus soft\u00adhyphen non‑breaking figure‒dash",
    "ellipsis… two.. three... four.... ;;; !!! ??? ?!?! --- === *** ///",
]

EMOJI = [
    "😀😃😄😁", "👍🏽👍🏿👍", "👨‍👩‍👧‍👦", "👩🏽‍🚀 and 🧑‍💻", "🏳️‍🌈🏴‍☠️", "🇩🇪🇫🇷🇯🇵🇺🇸", "🇩 🇪", "❤️ vs ❤",
    "1️⃣2️⃣#️⃣*️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🫠🫡🩷🪿", "☺︎ ☺️", "👁️‍🗨️", "text😀text 😀 text", "🤷🏻‍♀️?!", "🎉🎉🎉🎉🎉🎉🎉🎉",
    "⌚⏰⏱️", "🧑🏾‍🤝‍🧑🏻", "💩" * 40, "\u200d\u200d\ufe0f",
]

CODE = [
    "def f(x: int) -> int:\n    return x**2 if x > 0 else -x\n",
    "for (int i = 0; i < n; ++i) { a[i] = b[i]*2.5e-3f; } // done",
    "\tif (p != NULL && *p == '\\0')\n\t\treturn -1;\n",
    "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 0x7FFF); }\r\n",
    "SELECT * FROM t WHERE name LIKE '%o''brien%' AND id IN (1,22,333,4444);",
    "<div class=\"a b\" id='c'>&lt;p&gt; &amp; &#x20AC;</div><!-- x -->",
    "{\"key\": [1, 2.50, -3e+10, null, true], \"s\": \"\\u00e9\\n\"}",
    "fn main() { let v: Vec<&'static str> = vec![\"a\"; 10]; println!(\"{v:?}\"); }",
    "x = lambda *a, **k: (yield) # noqa: E731",
    "git commit -m 'fix: don''t' && ls -la /usr/bin | grep -E '^d.*\\s+$' > /dev/null 2>&1",
    "http://user:pw@example.com:8080/a/b%20c?q=1&r=2#frag mailto:me@ex-ample.co.uk",
    "C:\\Program Files\\x86\\foo_bar-baz.TXT;~/.config/$HOME/${VAR:-x}",
    "\\begin{equation} \\alpha_{i,j}^{2} \\leq \\frac{1}{2} \\end{equation}",
    "IPv6 2001:0db8:85a3::8a2e:0370:7334/64 MAC 00:1B:44:11:3A:B7",
    "camelCaseIdentifier snake_case_identifier SCREAMING_SNAKE kebab-case-id XMLHttpRequest2",
    "    4 spaces\n        8 spaces\n\t1 tab\n\t\t2 tabs\n  \t mixed\n",
    "int\tmain\t(\tvoid\t)\t{\n\n\n\n}\n",
    "0x1F 0b1010 0o17 1_000_000 1.5e-10 .5 5. 1e5 NaN -Infinity",
    "a;b;;c;;;d  ;  e", "$$$ %%% ^^^ &&& *** ((( ))) [[[ ]]] {{{ }}}",
]

CONTRACTIONS = ["I'm", "you're", "he's", "we'll", "they've", "I'd", "don't", "o'clock", "y'all'd've",
                "'tis", "'S", "'s's", "can''t", "rock'n'roll", "l'été", "d'Artagnan", "'", "''", "'ll'll"]

SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
            "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
            "[INST]", "[/INST]", "<tool_call>", "</tool_call>", "<mask>", "<extra>", "<word>", "<norm-é>"]


def categories():
    """Assigned characters by general category."""
    table = {}
    for c in range(0x110000):
        category = unicodedata.category(chr(c))
        if category not in ("Cs", "Cn", "Co"):
            table.setdefault(category, []).append(chr(c))
    return table


def blocks():
    """One line for every 128 code points that hold assigned characters, up to the tags block."""
    out = []
    for start in list(range(0, 0x3400, 128)) + list(range(0x4e00, 0xa000, 2048)) + \
            list(range(0xa000, 0xa4d0, 256)) + list(range(0xac00, 0xd7a4, 1024)) + \
            list(range(0xf900, 0x10000, 128)) + list(range(0x10000, 0x10500, 128)) + \
            list(range(0x1d000, 0x1d800, 128)) + list(range(0x1f000, 0x1f700, 128)) + \
            [0x20000, 0x2f800, 0xe0000]:
        chars = [chr(c) for c in range(start, start + 128)
                 if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")
                 and unicodedata.ucd_3_2_0.category(chr(c)) == unicodedata.category(chr(c))]
        if chars:
            out.append("".join(chars))
            out.append(" ".join(chars[::3]))
    return out


# Unicode's additions differ from one engine's tables to another's; the comparison is about
# tokenizers, so random lines are made of characters that all tables have had for long (3.2).
def lines():
    rng = random.Random(20240607)
    old = {k: [c for c in v if unicodedata.ucd_3_2_0.category(c) == k] for k, v in categories().items()}
    old = {k: v for k, v in old.items() if v}
    out = ["", " ", "  ", "\n", "\t", "a", "é", "漢", "😀", "▁", "▁▁", " ▁ ", "▁a", "a▁b", "\u0000", "a\u0000b", "\ufeff", "\ufffd"]
    out += SENTENCES + EMOJI + CODE

    # Contractions in every case, alone, in text and after other scripts; with the long s and K sign.
    for c in CONTRACTIONS:
        out += [c, c.upper(), c.title(), "x " + c + " y", c + "1", "é" + c, c + c]
    out += ["it'ſ", "IT'ſ", "'ſ 'S 's", "K'K ſs'ſ", "we\u2019ll don\u2019t I\u2019M"]

    # White space of every kind, in runs, before and after text.
    spaces = [" ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u180e",
              "\u2000", "\u2003", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff"]
    for s in spaces:
        for n in (1, 2, 3, 7):
            out += [s * n, "a" + s * n + "b", s * n + "x", "x" + s * n, "1" + s * n + "2", "!" + s * n + "?"]
    for _ in range(150):
        out.append("".join(rng.choice(spaces[:6] + [" ", " ", "\n"]) if rng.random() < 0.6 else rng.choice("ab1!é漢")
                           for _ in range(rng.randrange(2, 40))))
    out += [" " * n for n in (4, 8, 15, 16, 17, 31, 32, 33, 64, 100)] + ["\n" * n for n in (4, 9, 40)] + ["\t" * 9]
    out += [" " * n + "end" for n in (4, 16, 33)] + ["start" + " " * n for n in (4, 16, 33)]

    # Control characters.
    out += ["".join(chr(c) for c in range(32)), "".join(chr(c) for c in range(127, 160))]
    out += ["a" + chr(c) + "b" for c in list(range(32)) + list(range(127, 160))]
    out += ["bell\x07 esc\x1b[31mred\x1b[0m", "\u200e\u200f\u202a\u202b\u202c\u2066\u2069", "zero\u200bwidth\u200cnon\u200djoin\u2060er"]

    # Digits: runs of every length, with separators, in other scripts, mixed with letters.
    out += ["1234567890"[:n] * 1 for n in range(1, 11)] + ["9" * n for n in (11, 12, 13, 50)]
    out += ["1,234,567.89", "3.14159", "12:34:56", "2024-06-07T08:09:10Z", "1st 2nd 3rd 4th", "a1b2c3", "x86_64", "H2O CO2",
            "١٢٣٤", "१२३४५", "１２３４５", "一二三四", "Ⅻ ⅳ", "½¾⅓", "²³¹", "①②③", "𝟎𝟏𝟐𝟗", "1²3", "٣.١٤", "1 2  3   4", "+49 (0)30 123456"]
    digits = old["Nd"] + old["No"] + old["Nl"] + list("0123456789") * 20
    for _ in range(100):
        out.append("".join(rng.choice(digits) if rng.random() < 0.7 else rng.choice(" a.,é漢-") for _ in range(rng.randrange(2, 24))))

    # Combining marks in and out of form C, in and out of order, alone, long; Hangul letters.
    words = ["é", "Å", "ñ", "ö", "ệ", "ǖ", "ṩ", "ᾧ", "が", "가", "각", "क़", "ৎ", "שּׁ", "ﬁ", "Ω", "\u0344", "\u0958", "\u2adc", "\U0001d15e"]
    for w in words:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            x = unicodedata.normalize(form, w)
            out += [x, "x" + x + "y", x * 3]
    for s in SENTENCES:
        out.append(unicodedata.normalize("NFD", s))
    marks = old["Mn"]
    for _ in range(120):
        out.append("".join(rng.choice("aeiouAEOy ") + "".join(rng.choice(marks[:120] if rng.random() < .8 else marks)
                           for _ in range(rng.randrange(0, 6))) for _ in range(rng.randrange(1, 8))))
    out += ["\u0301", " \u0301", "\u0301a", "a" + "\u0301\u0323" * 40, "q\u0307\u0323", "q\u0323\u0307", "\u1100\u1161\u11a8\u11a8", "\u1100 \u1161", "가\u11a8",
            "a\u0301\u0300", "\u0041\u030a\u0301", "\u212b\u0327", "\u0f73\u0f71\u0f72", "\u09c7\u09be \u09c7\u0301\u09be"]

    # Long words and runs.
    out += ["a" * 300, "ab" * 200, "the" * 120, "x" * 24, "x" * 25, "x" * 26, "é" * 100, "漢" * 150, "-" * 150, "=" * 77, "." * 33, "!?" * 60,
            "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
            "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch", "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
            "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(1500)), "aA" * 100, "ㅋ" * 60, "ﷺ" * 9, "한" * 200]

    # Mixed scripts, glued and spaced.
    tokens = [w for s in SENTENCES for w in s.split(" ")]
    for _ in range(250):
        out.append(rng.choice(["", " ", "", "\n", "-"]).join(rng.choice(tokens) for _ in range(rng.randrange(2, 9))))
    for _ in range(60):
        out.append(" ".join(rng.choice(tokens + CODE + EMOJI) for _ in range(rng.randrange(3, 12))))

    # Special and added tokens in the text: alone, glued, spaced, doubled, broken, in other words.
    for t in SPECIALS:
        out += [t, "a" + t, t + "a", " " + t, t + " ", "a " + t + " b", "  " + t + "  x", "a\n" + t + "\n b", t + t, t[:-1], t[1:],
                t.upper(), t + "\t\n" + t, "é" + t + "漢", t + "'s", "_" + t + "_", "word" + t + "word", "." + t + "."]
    for _ in range(120):
        out.append("".join(rng.choice(SPECIALS + [" ", "  ", "a", "Hi there", "\n", "é", "e\u0301", "1", "<", "|", ">"]) for _ in range(rng.randrange(2, 10))))
    out += ["<|im_start|>user\nWhat's the capital of France?<|im_end|>\n<|im_start|>assistant\n",
            "<s>[INST] Hi [/INST] Hello </s><s>[INST] Bye [/INST]", "<0x0A><0xE2><0x96>", "<0xFF> <0xff>", "<norm-e\u0301>x<norm-é>"]

    # Characters of every category, in random company.
    names = sorted(old)
    for _ in range(250):
        out.append("".join(rng.choice(old[rng.choice(names)]) for _ in range(rng.randrange(1, 20))))
    ascii_text = [chr(c) for c in range(32, 127)]
    for _ in range(150):
        out.append("".join(rng.choice(ascii_text) for _ in range(rng.randrange(1, 40))))
    for n in range(32, 127):
        out.append("a " + chr(n) + chr(n) + "b" + chr(n) + " " + chr(n))
    out += blocks()
    return list(dict.fromkeys(out))


def byte_lines():
    """Bytes that are no UTF-8: cut, overlong, surrogates, beyond the range, stray."""
    rng = random.Random(7)
    out = [b"\xff", b"\x80", b"\xc3", b"a\xc3", b"\xc3\xa9\xc3", b"\xe2\x96", b"\xe2\x96x", b"\xf0\x9f\x98", b"\xf0\x9f\x98 ok", b"\xf0\x9f", b"\xc0\xaf",
           b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff", b"abc\x80\x80\x80def",
           b"\xe6\xbc\xa2\xe6\xbc", b"\xf0\x80\x80\x80", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", b"caf\xe9 cr\xe8me", b"\x93quoted\x94", b"<|im_end|>\xff<s>"]
    texts = [s.encode() for s in SENTENCES]
    for _ in range(76):
        b = bytearray(rng.choice(texts))
        for _ in range(rng.randrange(1, 6)):
            b[rng.randrange(len(b))] = rng.randrange(256)
        out.append(bytes(b[:rng.randrange(1, len(b))]))
    return out


def training():
    """Text to train the small tokenizers on."""
    rng = random.Random(11)
    pool = SENTENCES * 6 + CODE * 4 + EMOJI * 2 + CONTRACTIONS * 3
    english = ("the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which "
               "one you were all her she there would their we him been has when who will no more if out so said what up its about "
               "into than them can only other new some could time these two may then do first any my now such like our over man me "
               "even most made after also did many before must through back years where much your way well down should because each").split()
    for _ in range(400):
        pool.append(" ".join(rng.choice(english) for _ in range(rng.randrange(5, 20))).capitalize() + rng.choice(".?!"))
    return pool
