"""The text that the tiny tokenizers are trained on, and the strings that they are asked to encode.

All of it was written for this purpose and is in the public domain.
"""

TRAINING = [
    "The river runs down from the hills and through the town, and then the river goes on to the sea.",
    "Every morning the baker opens the door, lights the oven, and puts the first loaves on the long table.",
    "When the rain comes, the children run to the window and watch the water fill the street.",
    "There were three boats in the harbour: one was red, one was blue, and the third one had no colour at all.",
    "She said that she'd rather walk than wait; they're always late, and it's only a mile. I'll go, we've time, he'd agree, I'm sure.",
    "A model reads the text, and the text is a list of tokens; the next token is what the model is asked for.",
    "In the year 1984 there were 365 days, 8760 hours and 525600 minutes. In 2024 there were 366 days.",
    "The temperature was 21.5 degrees at 10:30, and 17 degrees at 23:45. It cost $12.99, that is 10% more than before.",
    "The old man and the young woman were walking together along the wall of the garden, talking about the weather.",
    "Nothing is as simple as it seems, nothing is as hard as it looks, and everything takes longer than one thinks.",
    "The translation of the station into another nation was a question of information and attention.",
    "THE TITLE OF THE PAGE IS IN CAPITAL LETTERS. HttpServer, readFile, parseJson, toString, getValue.",
    "La rivière descend des collines et traverse la ville. L'été, les enfants jouent près de l'eau où le café est resté ouvert.",
    "Der Fluß fließt durch die Stadt. Die Bäckerin öffnet früh am Morgen die Tür und schließt sie spät.",
    "El río baja de las montañas y cruza la ciudad. ¿Dónde está el niño? ¡Mañana será otro día!",
    "O rio corre para o mar e não volta. A manhã é fria, mas o pão está quente.",
    "Река течёт с холмов через город и дальше к морю. Каждое утро пекарь открывает дверь. Вода, вода и вода.",
    "Ο ποταμός κατεβαίνει από τους λόφους και περνά από την πόλη.",
    "河水从山上流下来，穿过城市，流向大海。今天是晴天，明天可能下雨。我们在这里。",
    "川は山から流れて、町を通り、海へ行きます。今日は晴れです。ありがとうございます。",
    "강은 산에서 내려와 마을을 지나 바다로 갑니다. 오늘은 날씨가 좋습니다.",
    "النهر ينزل من التلال ويمر عبر المدينة إلى البحر.",
    "נהר זורם מן ההרים אל העיר ואל הים.",
    "नदी पहाड़ों से उतरकर शहर से होकर समुद्र तक जाती है।",
    "แม่น้ำไหลจากภูเขาผ่านเมืองไปสู่ทะเล",
    "Sông chảy từ núi qua thành phố rồi ra biển. Hôm nay trời đẹp.",
    "Rzeka płynie ze wzgórz przez miasto. Źdźbło trawy, żółć, gęś i łódź.",
    "Happy 😀 sad 😢 thumbs 👍 family 👨‍👩‍👧 flag 🇫🇷 heart ❤️ rocket 🚀",
    "def add(a, b):\n    return a + b\n\n\nclass Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n",
    "fn main() {\n    let values = vec![1, 2, 3];\n    for value in &values {\n        println!(\"{}\", value);\n    }\n}\n",
    "for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i]) {\n\t\treturn false;\n\t}\n}\nreturn true;\n",
    "{\"name\": \"river\", \"length\": 120, \"towns\": [\"one\", \"two\"], \"deep\": false, \"next\": null}\n",
    "<h1>The river</h1>\n<p>It runs to the <b>sea</b>.</p>\n<table><tr><td>1</td></tr></table>\n",
    "# Title\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nhttps://example.com/path?query=value&other=1\n",
    "x = (a + b) * (c - d) / 2.0; y == z && !done || (n >= 10) -> result // comment\n",
    "and the and the and the of the of the in the in the to the to the that that with with for for was was is is",
]

# 60 strings: scripts, emoji, runs of white space, code, digits, edges.
CASES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t\n ", "a", " a", "a ", " a ", "  a  b   c    d",
    "The river runs through the town.", " The river", "Hello, world!", "hello world", "HELLO WORLD", "HelloWorld helloWorld HTTPServer",
    "I'll say it's theirs, they're sure we've 'em; he'd", "I'LL IT'S THEY'RE WE'VE", "don’t “quote” — dash… ellipsis",
    "1", "12", "123", "1234", "1234567890", "3.14159", "10:30, 23:45", "$12.99 10% (5+7)=12", "v1.2.3-rc4",
    "rivière café été", "rivie\u0300re cafe\u0301 e\u0301te\u0301", "Fluß fließt über die Brücke", "¿Dónde está el niño?", "Река течёт через город",
    "Ο ποταμός", "河水流向大海。", "川は海へ行きます", "강은 바다로 갑니다", "النهر إلى البحر", "נהר אל הים", "नदी समुद्र तक", "แม่น้ำไหล", "Sông chảy từ núi",
    "😀", "👨‍👩‍👧 🇫🇷 ❤️ 🚀🚀", "def add(a, b):\n    return a + b\n", "\tif (a[i] != b[i]) {\n\t\treturn false;\n\t}\n", "x   =    1;  // end\r\n\r\ny\r\n",
    "{\"a\": [1, 2, {\"b\": null}]}", "<h1>Title</h1>\n\n<p>text</p>", "https://example.com/a_b?c=d&e=f#g", "ﬁ ﬂ Å Ⅳ ² ｆｕｌｌ　ｗｉｄｔｈ",
    "zero\u200bwidth\u00a0nbsp\ufeffbom", "a\u0301\u0302\u0303 Z̷̩͂", "\u0000\u0001\u007f", "end with spaces   ", "trailing newline \n  \n next",
]
assert len(CASES) == 60, len(CASES)

# What the encoders embed.
SENTENCES = ["The river runs down to the sea.", "Rain, rain and more rain: 17 days of it!", "Le café est ouvert."]
