//! Logarithms of probabilities, in the shape of chats and in the older one of completions.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use crate::runtime::batch::TokenLogprob;

/// Those of a choice.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Logprobs)]
pub struct Logprobs {
    /// One for each token.
    pub content: Vec<Logprob>,
}

/// That of a token.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Logprob)]
pub struct Logprob {
    /// The token's text; U+FFFD where its bytes are no text.
    pub token: String,
    /// ln p.
    pub logprob: f32,
    /// The token's bytes.
    #[schema(value_type = Vec<i32>)]
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// That of a token that might have been.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::TopLogprob)]
pub struct TopLogprob {
    /// The token's text.
    pub token: String,
    /// ln p.
    pub logprob: f32,
    /// The token's bytes.
    #[schema(value_type = Vec<i32>)]
    pub bytes: Vec<u8>,
}

/// JSON has no infinity: a token that cannot be has this, as OpenAI writes it.
const NEVER: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

fn text(token: &TokenLogprob) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

impl Logprobs {
    /// Of these tokens; `None` for none.
    pub fn of(tokens: &[TokenLogprob]) -> Option<Logprobs> {
        let top = |t: &TokenLogprob| TopLogprob {
            token: text(t),
            logprob: finite(t.logprob),
            bytes: t.bytes.clone(),
        };
        let one = |t: &TokenLogprob| Logprob {
            token: text(t),
            logprob: finite(t.logprob),
            bytes: t.bytes.clone(),
            top_logprobs: t.top.iter().map(top).collect(),
        };
        (!tokens.is_empty()).then(|| Logprobs { content: tokens.iter().map(one).collect() })
    }
}

/// The shape of completions: lists side by side.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = openai::LegacyLogprobs)]
pub struct LegacyLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// ln p of each.
    pub token_logprobs: Vec<f32>,
    /// Of each, the likeliest tokens at its place and their ln p.
    #[schema(value_type = Vec<Object>)]
    pub top_logprobs: Vec<Map<String, Json>>,
    /// Where each token begins, in characters.
    pub text_offset: Vec<usize>,
}

impl LegacyLogprobs {
    /// Of these tokens, the first of which begins at `offset`, which is moved past the last; `None` for none.
    pub fn of(tokens: &[TokenLogprob], offset: &mut usize) -> Option<LegacyLogprobs> {
        let mut all = LegacyLogprobs::default();
        for token in tokens {
            let text = text(token);
            all.text_offset.push(*offset);
            *offset += text.chars().count();
            all.tokens.push(text);
            all.token_logprobs.push(finite(token.logprob));
            let top = token.top.iter().map(|t| (self::text(t), finite(t.logprob).into()));
            all.top_logprobs.push(top.collect());
        }
        (!tokens.is_empty()).then_some(all)
    }
}

/// A token for tests.
#[cfg(test)]
pub fn token(text: &str, logprob: f32) -> TokenLogprob {
    let top = TokenLogprob { token: 1, bytes: text.into(), logprob, top: Vec::new() };
    TokenLogprob { top: vec![top.clone()], ..top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes() {
        let tokens = [token("Hé", -0.5), TokenLogprob { bytes: vec![0xff], ..token("", f32::NEG_INFINITY) }];
        let chat = serde_json::to_string(&Logprobs::of(&tokens)).unwrap();
        assert_eq!(
            chat,
            concat!(
                r#"{"content":[{"token":"Hé","logprob":-0.5,"bytes":[72,195,169],"top_logprobs":[{"token":"Hé","logprob":-0.5,"bytes":[72,195,169]}]},"#,
                r#"{"token":"�","logprob":-9999.0,"bytes":[255],"top_logprobs":[{"token":"","logprob":-9999.0,"bytes":[]}]}]}"#
            )
        );
        let mut offset = 3;
        let legacy = LegacyLogprobs::of(&tokens, &mut offset).unwrap();
        assert_eq!(offset, 6);
        assert_eq!(
            serde_json::to_string(&legacy).unwrap(),
            r#"{"tokens":["Hé","�"],"token_logprobs":[-0.5,-9999.0],"top_logprobs":[{"Hé":-0.5},{"":-9999.0}],"text_offset":[3,5]}"#
        );
        assert!(Logprobs::of(&[]).is_none() && LegacyLogprobs::of(&[], &mut offset).is_none());
    }
}
