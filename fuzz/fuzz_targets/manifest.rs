//! Names, digests, manifests and configurations from anywhere: no panic, and what is accepted is
//! written and read back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mdl::store::{ConfigV2, Digest, Manifest, Name};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let _ = manifest.size();
        let written = manifest.to_bytes().expect("a manifest can be written");
        assert_eq!(Manifest::parse(&written).expect("and read back"), manifest);
    }
    if let Ok(config) = ConfigV2::parse(bytes) {
        let written = config.to_bytes().expect("a configuration can be written");
        assert_eq!(ConfigV2::parse(&written).expect("and read back").to_bytes().ok(), Some(written));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = Name::parse(text) {
        assert_eq!(Name::parse(&name.to_string()).as_ref(), Ok(&name));
        assert_eq!(Name::parse(&name.full()).as_ref(), Ok(&name));
        assert!(
            [name.host(), name.namespace(), name.model(), name.tag()]
                .iter()
                .all(|p| !p.starts_with('.') && !p.contains(['/', '\\', '\0']))
        );
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
    }
});
