use super::*;
use fancy_regex::Regex;
use proptest::prelude::*;

const GPT2_RE: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA_RE: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING_RE: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const O200K_RE: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU_RE: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_RE: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3_RE: &str = r#"[!"\#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}\~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#;
/// As it stands in the `tokenizer.json` of `deepseek-llm-7b-base`.
const CASED_WORD_RE: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const ASIAN_RE: &str = "[一-龥ࠀ-一가-퟿]+";
const CJK_RE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const BLOOM_RE: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const EXPRESSIONS: &[(&str, &[&str])] = &[
    ("llama-bpe", &[LLAMA3_RE]),
    ("dbrx", &[LLAMA3_RE]),
    ("glm4", &[LLAMA3_RE]),
    ("minicpm5", &[r"\p{N}{1,3}", MINICPM_RE]),
    ("qwen2", &[QWEN2_RE]),
    ("deepseek-r1-qwen", &[QWEN2_RE]),
    ("bailingmoe", &[BAILING_RE]),
    ("qwen35", &[QWEN35_RE]),
    ("ufakzeka", &[UFAKZEKA_RE]),
    ("seed-coder", &[SEED_CODER_RE]),
    ("laguna", &[r"[^\n]+|[\n]+", QWEN2_RE]),
    ("gpt-4o", &[O200K_RE]),
    ("granite-embed-multi-97m", &[O200K_RE]),
    ("tiny_aya", &[r"\d{1,3}(?=(?:\d{3})*\b)", O200K_RE]),
    ("youtu", &["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", YOUTU_RE]),
    ("tekken", &[TEKKEN_RE]),
    ("deepseek-v3", &[r"\p{N}{1,3}", CJK_RE, DEEPSEEK3_RE]),
    (
        "afmoe",
        &[
            r"(?<!\d)\d{1,3}(?=(?:\d{3})*(?!\d))|\d{3}(?=(?:\d{3})*(?!\d))",
            "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
            DEEPSEEK3_RE,
        ],
    ),
    (
        "deepseek-llm",
        &[r"[\r\n]", CASED_WORD_RE, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", ASIAN_RE, r"\p{N}+"],
    ),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIAN_RE, r"\p{N}"]),
    ("gpt-2", &[GPT2_RE]),
    ("smollm", &[r"\p{N}", GPT2_RE]),
    ("mpt", &[GPT2_RE]),
    ("command-r", &[r"\p{N}", GPT2_RE]),
    ("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2_RE, r"[0-9][0-9][0-9]"]),
    ("bloom", &[BLOOM_RE]),
    ("viking", &[BLOOM_RE, r"\p{N}"]),
    ("superbpe", &[r"\p{N}+", r"(?<!\d)\d{1,3}(?=(?:\d{3})*(?!\d))|\d{3}(?=(?:\d{3})*(?!\d))"]),
    (
        "chameleon",
        &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2_RE,
        ],
    ),
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_RE, r"\p{N}+", r"[0-9][0-9][0-9]"]),
];

fn ours<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    PreTokenizer::from_name(name).unwrap().split(text, &mut |p| pieces.push(p));
    pieces
}

/// The pieces of the expressions, each applied to the pieces of the one before.
fn expected<'a>(expressions: &[Regex], text: &'a str) -> Vec<&'a str> {
    let mut pieces = vec![text];
    for expression in expressions {
        let mut next = Vec::new();
        for piece in pieces {
            let mut at = 0;
            for found in expression.find_iter(piece) {
                let found = found.expect("the expression fails");
                next.extend([&piece[at..found.start()], found.as_str()]);
                at = found.end();
            }
            next.push(&piece[at..]);
        }
        next.retain(|p| !p.is_empty());
        pieces = next;
    }
    pieces
}

fn compiled() -> Vec<(&'static str, Vec<Regex>)> {
    let compile = |e: &&str| Regex::new(e).unwrap();
    EXPRESSIONS.iter().map(|(n, e)| (*n, e.iter().map(compile).collect())).collect()
}

#[test]
fn every_pre_tokenizer_is_held_to_its_expressions() {
    let tested: Vec<_> = EXPRESSIONS.iter().map(|(n, _)| *n).collect();
    for p in PRE_TOKENIZERS {
        assert!(tested.contains(&p.names[0]), "{} is not tested", p.names[0]);
    }
}

#[test]
fn pieces_are_those_of_the_expressions() {
    let texts = [
        "",
        " ",
        "  ",
        "a",
        "  a",
        "\n\n \n  x",
        " \r\n\r\n\t y \r",
        "I'll don't WE'VE 'S 'ſ x'REx 'r 'l 'lL",
        "1 12 123 1234 12345678 ½ ²³ 1²34567 ١٢٣٤ Ⅷ 12 34",
        "naïve e\u{301}te\u{301} 日本語 한국어 ไทย हिन्दी \u{200D}👩‍👩‍👧 🏳️‍🌈",
        "fn main() { println!(\"{}\", x+=1); }\n\n\n//--$$ ``^~|<=>",
        "\u{A0}\u{A0}a\u{2003}\u{3000}b\u{85}c\u{2028}",
        "!!!\r\n\n  ?",
        " '' 's's'st'",
    ];
    for (name, expressions) in compiled() {
        for text in texts {
            assert_eq!(ours(name, text), expected(&expressions, text), "{name}: {text:?}");
        }
    }
}

#[test]
fn long_runs_are_one_pass() {
    // Quadratic time would be 10^9 steps for each.
    let n = 1 << 15;
    for unit in ["a", " ", "\n", "1", "'", "!", "🙂", "\u{301}", " \n", "12a"] {
        let text = unit.repeat(n / unit.len());
        for p in PRE_TOKENIZERS {
            let mut bytes = 0;
            p.split(&text, &mut |piece| bytes += piece.len());
            assert_eq!(bytes, text.len());
        }
    }
}

fn hostile_text() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        4 => "[ \t\r\n\u{A0}\u{3000}\u{2028}]{1,6}",
        4 => "[a-zA-Zéßſ日ǅʰ]{1,5}",
        4 => "[0-9²½٣Ⅷ]{1,7}",
        3 => "'(s|t|re|ve|m|ll|d|S|RE|Ve|lL|ſ|x|r|v|l|)",
        3 => "[!-/:-@\\[-`{-~£€—«»\u{301}\u{200D}]{1,4}",
        2 => any::<char>().prop_map(String::from),
        1 => "🙂|👩‍👩‍👧|\u{FE0F}",
    ];
    prop::collection::vec(bit, 0..24).prop_map(|bits| bits.concat())
}

thread_local! {
    static COMPILED: Vec<(&'static str, Vec<Regex>)> = compiled();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_pieces_are_those_of_the_expressions(text in hostile_text()) {
        COMPILED.with(|compiled| {
            for (name, expressions) in compiled {
                prop_assert_eq!(ours(name, &text), expected(expressions, &text), "{}", name);
            }
            Ok(())
        })?;
    }
}
