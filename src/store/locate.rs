//! Where the store is when nobody says: `--store`, `MDL_MODELS`, the platform's data directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Store;
use crate::diagnostic::{Diagnostic, Result};

/// The convention by which a platform keeps a program's data.
#[derive(Clone, Copy, Debug)]
enum Platform {
    /// The XDG base directories.
    Xdg,
    MacOs,
    Windows,
}

const PLATFORM: Platform = if cfg!(windows) {
    Platform::Windows
} else if cfg!(target_os = "macos") {
    Platform::MacOs
} else {
    Platform::Xdg
};

impl Store {
    /// The directory of the store: `explicit` (from `--store`), else `MDL_MODELS`, else `models`
    /// in the platform's data directory for `mdl`. `env` reads a variable; an empty one counts as
    /// unset.
    ///
    /// # Errors
    /// Nothing says where: no option, no variable and no home directory.
    pub fn locate(explicit: Option<&Path>, env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
        let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(path) = explicit {
            return Ok(path.to_owned());
        }
        if let Some(path) = set("MDL_MODELS") {
            return Ok(path);
        }
        data_directory_of(PLATFORM, &set).map(|dir| dir.join("models")).ok_or_else(|| {
            Diagnostic::usage("there is no home directory to keep the store in")
                .code("no-store")
                .help("name a directory with --store or MDL_MODELS")
                .into()
        })
    }
}

/// The platform's directory for this program's data; none where there is no home directory.
pub fn data_directory(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    data_directory_of(PLATFORM, &|name| env(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn data_directory_of(platform: Platform, set: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    match platform {
        // The specification tells to ignore a relative path.
        Platform::Xdg => set("XDG_DATA_HOME")
            .filter(|p| p.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("mdl")),
        Platform::MacOs => set("HOME").map(|home| home.join("Library/Application Support/mdl")),
        Platform::Windows => set("LOCALAPPDATA")
            .or_else(|| set("USERPROFILE").map(|home| home.join("AppData").join("Local")))
            .map(|dir| dir.join("mdl")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(platform: Platform, variables: &[(&str, &str)]) -> Option<PathBuf> {
        data_directory_of(platform, &|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v))
        })
    }

    #[test]
    fn each_platform_has_its_data_directory() {
        let home = ("HOME", "/home/u");
        let is = |p: &str| Some(PathBuf::from(p));
        assert_eq!(find(Platform::Xdg, &[home]), is("/home/u/.local/share/mdl"));
        assert_eq!(find(Platform::Xdg, &[home, ("XDG_DATA_HOME", "/data")]), is("/data/mdl"));
        assert_eq!(find(Platform::Xdg, &[home, ("XDG_DATA_HOME", "data")]), is("/home/u/.local/share/mdl"));
        assert_eq!(find(Platform::MacOs, &[home]), is("/home/u/Library/Application Support/mdl"));
        assert_eq!(find(Platform::Windows, &[("LOCALAPPDATA", "/l")]), is("/l/mdl"));
        assert_eq!(find(Platform::Windows, &[("USERPROFILE", "/u")]), is("/u/AppData/Local/mdl"));
        assert_eq!(find(Platform::Xdg, &[]), None);
    }

    #[test]
    fn the_option_goes_before_the_variable_before_the_default() {
        let env = |name: &str| match name {
            "MDL_MODELS" => Some(OsString::from("/env")),
            _ => Some(OsString::from("/home/u")),
        };
        assert_eq!(Store::locate(Some(Path::new("/opt")), &env).unwrap(), Path::new("/opt"));
        assert_eq!(Store::locate(None, &env).unwrap(), Path::new("/env"));
        let empty = |_: &str| Some(OsString::new());
        let error = Store::locate(None, &empty).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
