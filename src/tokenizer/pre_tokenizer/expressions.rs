//! Steps of few models, as regular expressions. All of them look at what they match only, so that they take
//! time in proportion to the text.

use std::sync::LazyLock;

use regex::Regex;

/// An expression, compiled when it is first used.
pub(super) type Expression = LazyLock<Regex>;

/// The expressions are constants, and the tests compile each.
#[allow(clippy::expect_used)]
fn compiled(expression: &str) -> Regex {
    Regex::new(expression).expect("a constant expression is valid")
}

macro_rules! expressions {
    ($($(#[$doc:meta])* $name:ident = $expression:expr;)*) => {
        $($(#[$doc])* pub(super) static $name: Expression = LazyLock::new(|| compiled($expression));)*
    };
}

expressions! {
    NEWLINE = r"[\r\n]";
    NEWLINE_RUNS = r"[^\n]+|[\n]+";
    /// Letters of scripts with two cases, as DeepSeek's first models list them.
    CASED_WORD = concat!(
        r"\s?[A-Za-z",
        r"\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
        r"\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}",
        r"\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}",
        r"\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}",
        r"\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}",
        r"\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
        r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}",
        r"\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}",
        r"\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}",
        r"\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}",
        r"\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}",
        r"\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}",
        r"\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}",
        r"\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}",
        r"\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}",
        r"\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}",
        r"]+",
    );
    PUNCTUATION_WORD = r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+";
    SPACES_AT_THE_END = r"\s+$";
    /// Chinese, much of Asia, and Korean.
    ASIAN_RUN = r"[\u{4E00}-\u{9FA5}\u{0800}-\u{4E00}\u{AC00}-\u{D7FF}]+";
    LETTERS_AFTER_SPACE = r"\s?\p{L}+";
    PUNCTUATION_AFTER_SPACE = r"\s?\p{P}+";
    /// Chinese and Japanese.
    CJK_RUN = r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
    /// Korean, punctuation of Asia, Bopomofo, Chinese and Japanese.
    YOUTU_RUN = r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+|[\u{3105}-\u{312F}]+|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
    /// Asian scripts that write no spaces.
    AFMOE_RUN = r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}\u{1000}-\u{109F}\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+";
    BLOOM_WORD = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+";
    CHAMELEON_SENTINEL = r"<sentinel:[0-9]+>";
    CHAMELEON_IMAGE = r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z";
    CHAMELEON_INDENT = r"([\t\n]|    |  )";
    PUNCTUATION = r"[\p{P}!-/:-@\[-`{-~]";
}
