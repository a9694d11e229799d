//! Keys in PEM files: PKCS#8 (RFC 5958), SEC 1 (RFC 5915) and SubjectPublicKeyInfo (RFC 5280).

use std::path::Path;

use p256::ecdsa::signature::{Signer, Verifier};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use sha2::{Digest as _, Sha256};

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::world::{SystemWorld, read_file};

/// The most bytes of a key's file.
const LONGEST: u64 = 64 << 10;

/// What signs.
pub enum PrivateKey {
    /// ECDSA over P-256 with SHA-256.
    P256(p256::ecdsa::SigningKey),
    /// ECDSA over P-384 with SHA-384.
    P384(p384::ecdsa::SigningKey),
    /// ECDSA over P-521 with SHA-512.
    P521(p521::ecdsa::SigningKey),
    /// Ed25519 (RFC 8032).
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

/// What verifies.
#[derive(Clone, Debug, PartialEq)]
pub enum PublicKey {
    /// ECDSA over P-256 with SHA-256.
    P256(p256::ecdsa::VerifyingKey),
    /// ECDSA over P-384 with SHA-384.
    P384(p384::ecdsa::VerifyingKey),
    /// ECDSA over P-521 with SHA-512.
    P521(p521::ecdsa::VerifyingKey),
    /// Ed25519 (RFC 8032).
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl PrivateKey {
    /// Reads a private key.
    ///
    /// # Errors
    /// The file cannot be read, has no private key, an encrypted one, or one of another kind.
    pub fn read(path: &Path) -> Result<PrivateKey> {
        let text = read_pem(path)?;
        located(PrivateKey::parse(&text), path)
    }

    fn parse(text: &str) -> Result<PrivateKey> {
        if text.contains("ENCRYPTED") {
            return Err(Diagnostic::error("the private key is encrypted")
                .code("encrypted-key")
                .help("decrypt it for as long as it is needed: `openssl pkey -in KEY -out PLAIN`")
                .into());
        }
        if let Some(pem) = block(text, "EC PRIVATE KEY") {
            let sec1 = || -> Option<PrivateKey> {
                p256::SecretKey::from_sec1_pem(&pem)
                    .map(|k| PrivateKey::P256(k.into()))
                    .or_else(|_| p384::SecretKey::from_sec1_pem(&pem).map(|k| PrivateKey::P384(k.into())))
                    .or_else(|_| p521::SecretKey::from_sec1_pem(&pem).map(|k| PrivateKey::P521(k.into())))
                    .ok()
            };
            return sec1().ok_or_else(|| unknown_kind().into());
        }
        let Some(pem) = block(text, "PRIVATE KEY") else {
            let what =
                if block(text, "PUBLIC KEY").is_some() { "a public key" } else { "no private key in PEM" };
            return Err(Diagnostic::error(format!("there is {what} in it"))
                .code("invalid-key")
                .help(
                    "make one with `openssl genpkey -algorithm ed25519 -out KEY`, or with \
                       `openssl ecparam -name prime256v1 -genkey -noout -out KEY`",
                )
                .into());
        };
        p256::ecdsa::SigningKey::from_pkcs8_pem(&pem)
            .map(PrivateKey::P256)
            .or_else(|_| p384::ecdsa::SigningKey::from_pkcs8_pem(&pem).map(PrivateKey::P384))
            .or_else(|_| p521::ecdsa::SigningKey::from_pkcs8_pem(&pem).map(PrivateKey::P521))
            .or_else(|_| {
                ed25519_dalek::SigningKey::from_pkcs8_pem(&pem).map(|k| PrivateKey::Ed25519(Box::new(k)))
            })
            .map_err(|_| unknown_kind().into())
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        match self {
            PrivateKey::P256(key) => PublicKey::P256(*key.verifying_key()),
            PrivateKey::P384(key) => PublicKey::P384(*key.verifying_key()),
            PrivateKey::P521(key) => PublicKey::P521(*key.verifying_key()),
            PrivateKey::Ed25519(key) => PublicKey::Ed25519(key.verifying_key()),
        }
    }

    /// The signature of `message`: in DER for ECDSA, 64 bytes for ed25519. The same message has the same
    /// signature (RFC 6979).
    ///
    /// # Errors
    /// None that a valid key allows.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| Diagnostic::environment(format!("cannot sign: {e}"));
        Ok(match self {
            PrivateKey::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
            PrivateKey::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
            PrivateKey::P521(key) => {
                let signature: p521::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
            PrivateKey::Ed25519(key) => {
                let signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_bytes().to_vec()
            }
        })
    }
}

impl PublicKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// The file cannot be read, has no public key, or one of another kind.
    pub fn read(path: &Path) -> Result<PublicKey> {
        let text = read_pem(path)?;
        located(PublicKey::parse(&text), path)
    }

    fn parse(text: &str) -> Result<PublicKey> {
        let Some(pem) = block(text, "PUBLIC KEY") else {
            let secret = text.contains("PRIVATE KEY");
            let what = if secret { "a private key" } else { "no public key in PEM" };
            return Err(Diagnostic::error(format!("there is {what} in it"))
                .code("invalid-key")
                .help("`openssl pkey -in KEY -pubout -out KEY.pub` writes the public key of a private one")
                .into());
        };
        p256::ecdsa::VerifyingKey::from_public_key_pem(&pem)
            .map(PublicKey::P256)
            .or_else(|_| p384::ecdsa::VerifyingKey::from_public_key_pem(&pem).map(PublicKey::P384))
            .or_else(|_| p521::ecdsa::VerifyingKey::from_public_key_pem(&pem).map(PublicKey::P521))
            .or_else(|_| ed25519_dalek::VerifyingKey::from_public_key_pem(&pem).map(PublicKey::Ed25519))
            .map_err(|_| unknown_kind().into())
    }

    /// Whether `signature` is this key's, of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            PublicKey::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            PublicKey::P521(key) => p521::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            PublicKey::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        }
    }

    /// The key in PEM.
    ///
    /// # Errors
    /// None that a valid key allows.
    pub fn to_pem(&self) -> Result<String> {
        let pem = match self {
            PublicKey::P256(key) => key.to_public_key_pem(LineEnding::LF),
            PublicKey::P384(key) => key.to_public_key_pem(LineEnding::LF),
            PublicKey::P521(key) => key.to_public_key_pem(LineEnding::LF),
            PublicKey::Ed25519(key) => key.to_public_key_pem(LineEnding::LF),
        };
        pem.map_err(|e| Diagnostic::environment(format!("cannot write the public key: {e}")).into())
    }

    /// How a bundle says which key it needs: the SHA-256 of the key's PEM text, in hexadecimal digits.
    ///
    /// # Errors
    /// None that a valid key allows.
    pub fn hint(&self) -> Result<String> {
        let sha: [u8; 32] = Sha256::digest(self.to_pem()?.as_bytes()).into();
        Ok(sha.iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// Errors that say which file they are about.
fn located<T>(result: Result<T>, path: &Path) -> Result<T> {
    result.map_err(|errors| Errors(errors.0.into_iter().map(|d| d.in_file(path, "")).collect()))
}

fn read_pem(path: &Path) -> Result<String> {
    let bytes = read_file(&SystemWorld, path, LONGEST)?;
    String::from_utf8(bytes).map_err(|_| {
        Diagnostic::error("this is no PEM file")
            .in_file(path, "")
            .code("invalid-key")
            .help("`openssl pkey -in KEY -inform DER -out KEY.pem` makes one of a key in DER")
            .into()
    })
}

/// The block of this label: `openssl ecparam -genkey` puts another before it.
fn block(text: &str, label: &str) -> Option<String> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let start = text.find(&begin)?;
    let rest = text.get(start..)?;
    let len = rest.find(&end)? + end.len();
    let mut block = rest.get(..len)?.replace('\r', "");
    block.push('\n');
    Some(block)
}

fn unknown_kind() -> Diagnostic {
    Diagnostic::error("this key is damaged, or of another kind than P-256, P-384, P-521 or ed25519")
        .code("invalid-key")
        .help(
            "make one with `openssl genpkey -algorithm ed25519 -out KEY`, or with \
               `openssl ecparam -name prime256v1 -genkey -noout -out KEY`",
        )
}
