//! What the processor calls itself, and which of its extensions matter here.

/// The processor's name; `unknown` where it does not say.
pub fn name() -> String {
    let name = brand().or_else(model_name).unwrap_or_default();
    let words: Vec<&str> = name.split_whitespace().collect();
    if words.is_empty() { "unknown".to_owned() } else { words.join(" ") }
}

/// The extensions that a kernel can use and this machine has, in lower case, as Linux spells them.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detected {
            ($($name:tt: $shown:literal),* $(,)?) => {
                [$(($shown, is_x86_feature_detected!($name))),*]
            };
        }
        let known = detected![
            "avx2": "avx2",
            "fma": "fma",
            "f16c": "f16c",
            "avx512f": "avx512f",
            "avx512bw": "avx512bw",
            "avx512vl": "avx512vl",
            "avx512dq": "avx512dq",
            "avx512vnni": "avx512_vnni",
            "avx512bf16": "avx512_bf16",
            "avx512fp16": "avx512_fp16",
            "avxvnni": "avx_vnni",
        ];
        let mut found: Vec<&str> = known.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
        let edx = cpuid(7).map_or(0, |leaf| leaf[3]);
        let amx = [(24, "amx_tile"), (25, "amx_int8"), (22, "amx_bf16")];
        found.extend(amx.into_iter().filter(|(bit, _)| edx >> bit & 1 == 1).map(|(_, name)| name));
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

/// EAX, EBX, ECX, EDX of a leaf of CPUID; `None` where there is no such leaf.
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    let (most, _) = __get_cpuid_max(leaf & 0x8000_0000);
    if leaf > most {
        return None;
    }
    let found = __cpuid_count(leaf, 0);
    Some([found.eax, found.ebx, found.ecx, found.edx])
}

/// The brand string of CPUID: 48 bytes in three leaves.
fn brand() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    {
        let leaves: Option<Vec<[u32; 4]>> = (0x8000_0002..=0x8000_0004).map(cpuid).collect();
        let bytes: Vec<u8> = leaves?.into_iter().flatten().flat_map(u32::to_le_bytes).collect();
        let text = bytes.split(|b| *b == 0).next().unwrap_or(&[]);
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.trim().is_empty())
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}

/// What Linux says.
fn model_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_one_line() {
        let name = name();
        assert!(!name.is_empty() && !name.contains(char::is_control), "{name:?}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_level_has_its_features() {
        let has = |name| features().contains(&name);
        assert_eq!(has("avx2") && has("fma") && has("f16c"), crate::Level::available().len() > 1);
        assert_eq!(cpuid(0x8fff_ffff), None);
    }
}
