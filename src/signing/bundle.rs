//! The Sigstore bundle around a statement, and the DSSE envelope in it.
//!
//! Formats: <https://docs.sigstore.dev/about/bundle/>, version 0.3, and
//! <https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md>.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::keys::{PrivateKey, PublicKey};
use super::statement::Statement;
use crate::diagnostic::{Diagnostic, Result};

/// The most bytes of a signature that are read: a model of a hundred thousand files fits.
pub const LIMIT: u64 = 64 << 20;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default)]
    public_key: Option<Hint>,
    #[serde(default)]
    tlog_entries: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    sig: String,
    #[serde(default)]
    keyid: String,
}

/// What is signed: type and payload, each with its length.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

/// Signs a statement; the bytes of the bundle's file. The same statement and key give the same bytes.
///
/// # Errors
/// None that a valid key allows.
pub fn seal(statement: &Statement, key: &PrivateKey) -> Result<Vec<u8>> {
    let payload = statement.to_json()?;
    let sig = BASE64_STANDARD.encode(key.sign(&pre_authentication_encoding(&payload))?);
    let bundle = Bundle {
        media_type: MEDIA_TYPE.to_owned(),
        verification_material: Material {
            public_key: Some(Hint { hint: Some(key.public().hint()?) }),
            tlog_entries: Vec::new(),
        },
        dsse_envelope: Envelope {
            payload: BASE64_STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signature { sig, keyid: String::new() }],
        },
    };
    let mut bytes = serde_json::to_vec(&bundle)
        .map_err(|e| Diagnostic::environment(format!("cannot write the signature: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a bundle and verifies that `key` signed it; what it states.
///
/// # Errors
/// It is no bundle, another key's, or its payload is not what was signed.
pub fn open(bytes: &[u8], key: &PublicKey) -> Result<Statement> {
    if bytes.len() as u64 > LIMIT {
        return Err(invalid(format!("it has more than {LIMIT} bytes")).into());
    }
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    if bundle.media_type != MEDIA_TYPE {
        return Err(invalid(format!("its media type is {:?}, not {MEDIA_TYPE:?}", bundle.media_type)).into());
    }
    let envelope = &bundle.dsse_envelope;
    if envelope.payload_type != PAYLOAD_TYPE {
        let is = &envelope.payload_type;
        return Err(invalid(format!("its payload is of the type {is:?}, not {PAYLOAD_TYPE:?}")).into());
    }
    // The format has exactly one; which of several would count is nothing to guess.
    let [signature] = envelope.signatures.as_slice() else {
        return Err(invalid(format!("it has {} signatures, not one", envelope.signatures.len())).into());
    };
    let hint = bundle.verification_material.public_key.and_then(|k| k.hint).filter(|hint| !hint.is_empty());
    if let Some(hint) = hint
        && hint != key.hint()?
    {
        return Err(Diagnostic::error("this signature was made with another key")
            .code("other-key")
            .help("give the public key that belongs to the one that signed")
            .into());
    }
    let decoded = |what: &str, text: &str| -> Result<Vec<u8>> {
        Ok(BASE64_STANDARD.decode(text).map_err(|e| invalid(format!("its {what} is no base64: {e}")))?)
    };
    let payload = decoded("payload", &envelope.payload)?;
    let sig = decoded("signature", &signature.sig)?;
    if !key.verifies(&pre_authentication_encoding(&payload), &sig) {
        return Err(Diagnostic::error("the signature is not this key's, or what it says was changed")
            .code("bad-signature")
            .help("do not use the model; get it, and its signature, again")
            .into());
    }
    Statement::parse(&payload)
}

fn invalid(why: String) -> Diagnostic {
    Diagnostic::error(format!("this is no signature of a model: {why}"))
        .code("invalid-signature")
        .help("a signature is what `mdl sign` or `model_signing sign key` wrote")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::signing::{Resource, Serialization};
    use crate::store::Digest;

    fn key(name: &str) -> PrivateKey {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/signing").join(name);
        PrivateKey::read(&path).unwrap()
    }

    /// A bundle whose payload is any text, rightly signed.
    fn of(payload: &str, change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let key = key("p256.pem");
        let sig = BASE64_STANDARD.encode(key.sign(&pre_authentication_encoding(payload.as_bytes())).unwrap());
        let mut bundle = serde_json::json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.public().hint().unwrap()}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": BASE64_STANDARD.encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": sig, "keyid": ""}],
            },
        });
        change(&mut bundle);
        serde_json::to_vec(&bundle).unwrap()
    }

    #[test]
    fn what_is_signed_is_read_back() {
        for name in ["p256.pem", "p384.pem", "p521.pem", "ed25519.pem"] {
            let resources = ["b", "a/b", "a.b", "a"]
                .map(|name| Resource { name: name.to_owned(), digest: Digest::of(name.as_bytes()) });
            let statement = Statement::new(
                "m".to_owned(),
                Serialization::files(vec![".git".to_owned()]),
                resources.to_vec(),
            );
            let names: Vec<&str> = statement.resources.iter().map(|r| r.name.as_str()).collect();
            assert_eq!(names, ["a", "a/b", "a.b", "b"]);
            let key = key(name);
            let sealed = seal(&statement, &key).unwrap();
            assert_eq!(seal(&statement, &key).unwrap(), sealed);
            assert_eq!(open(&sealed, &key.public()).unwrap(), statement);
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let public = key("p256.pem").public();
        let statement = Statement::new(
            "m".to_owned(),
            Serialization::files(Vec::new()),
            vec![Resource { name: "a".to_owned(), digest: Digest::of(b"a") }],
        );
        let good = String::from_utf8(statement.to_json().unwrap()).unwrap();
        assert_eq!(open(&of(&good, |_| ()), &public).unwrap(), statement);
        // No hint, as older versions wrote it.
        open(&of(&good, |b| b["verificationMaterial"]["publicKey"] = serde_json::json!({})), &public)
            .unwrap();
        let refused = |bytes: &[u8]| open(bytes, &public).unwrap_err().0.remove(0).message;
        let mut said = Vec::new();
        for change in [
            |b: &mut serde_json::Value| b["mediaType"] = "text/plain".into(),
            |b: &mut serde_json::Value| b["dsseEnvelope"]["payloadType"] = "text/plain".into(),
            |b: &mut serde_json::Value| b["dsseEnvelope"]["payload"] = "-".into(),
            |b: &mut serde_json::Value| b["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA".into(),
            |b: &mut serde_json::Value| b["dsseEnvelope"]["signatures"] = serde_json::json!([]),
            |b: &mut serde_json::Value| {
                let twice = b["dsseEnvelope"]["signatures"][0].clone();
                b["dsseEnvelope"]["signatures"] = serde_json::json!([twice, twice]);
            },
            |b: &mut serde_json::Value| b["verificationMaterial"]["publicKey"]["hint"] = "00".into(),
            |b: &mut serde_json::Value| drop(b["dsseEnvelope"].take()),
        ] {
            said.push(refused(&of(&good, change)));
        }
        let digest = Digest::of(b"a").hex();
        let twice = format!(r#"{{"name": "a", "algorithm": "sha256", "digest": "{digest}"}}"#);
        for payload in [
            "",
            "[]",
            "null",
            "{}",
            &good.replace("in-toto.io", "else.where"),
            &good.replace("signature/v1.0", "signature/v9"),
            &good.replace(&digest, &digest.replace(['0', '1', '2', '3'], "9")),
            &good.replace(r#""hash_type":"sha256""#, r#""hash_type":"blake3""#),
            &good.replace(r#""algorithm":"sha256""#, r#""algorithm":"md5""#),
            &good.replace(r#""resources":["#, &format!(r#""resources":[{twice},"#)),
            &good.replace(r#""method":"files""#, r#""method":"shards","shard_size":-1"#),
            &good.replace(r#""method":"files""#, r#""method":"shards","shard_size":1e300"#),
        ] {
            said.push(refused(&of(payload, |_| ())));
        }
        for bytes in [&b""[..], b"{}", b"\xff", &[b'['; 100_000]] {
            said.push(refused(bytes));
        }
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!("signing_refused", said.join("\n"));
        });
    }
}
