//! From a path as written in a Modelfile to the path of a file.

use std::path::{Component, Path, PathBuf, is_separator};

use crate::diagnostic::{Diagnostic, Result};
use crate::world::{World, read_file};

/// Where the system lists its users.
const PASSWD: &str = "/etc/passwd";

/// Expands a path: `~` and `~/x` are in the current user's home, `~user/x` in another's, and a
/// relative path is relative to `base`, the Modelfile's directory. `.`, `..` and doubled
/// separators are resolved by their spelling. The result is absolute if `base` is.
///
/// # Errors
/// The home directory is not known, or there is no such user.
pub fn expand(world: &dyn World, base: &Path, path: &str) -> Result<PathBuf> {
    let Some(rest) = path.strip_prefix('~') else {
        return Ok(clean(&base.join(path)));
    };
    let (user, below) = rest.split_once(is_separator).unwrap_or((rest, ""));
    let home = if user.is_empty() {
        world.home().ok_or_else(|| {
            Diagnostic::environment(format!("cannot expand `{path}`: the home directory is not known"))
                .code("unknown-home")
                .help("set HOME, or write the path in full")
        })?
    } else {
        home_of(world, user)?.ok_or_else(|| {
            Diagnostic::error(format!("cannot expand `{path}`: there is no user `{user}`"))
                .code("unknown-user")
                .help(format!("for a file whose name begins with `~`, write `./{path}`"))
        })?
    };
    // A separator at the start of `below` would make `join` drop the home directory.
    Ok(clean(&home.join(below.trim_start_matches(is_separator))))
}

/// A user's home directory by the system's list of users.
fn home_of(world: &dyn World, user: &str) -> Result<Option<PathBuf>> {
    if world.kind(Path::new(PASSWD)).is_none() {
        return Ok(None);
    }
    let bytes = read_file(world, Path::new(PASSWD), 16 << 20)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let home = (fields.next() == Some(user)).then(|| fields.nth(4)).flatten()?;
        (!home.is_empty()).then(|| PathBuf::from(home))
    }))
}

/// Resolves `.` and `..` by their spelling.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::MemoryWorld;

    fn world() -> MemoryWorld {
        let mut world = MemoryWorld::default();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:7:7:Ann:/home/ann:/bin/sh\nnone:x:8:8:::\n";
        world.insert(PASSWD, passwd.as_bytes());
        world
    }

    #[test]
    #[cfg(unix)]
    fn paths_expand() {
        let base = Path::new("/work/dir");
        for (path, expected) in [
            ("~", "/home/user"),
            ("~/", "/home/user"),
            ("~/models/a.gguf", "/home/user/models/a.gguf"),
            ("~//etc", "/home/user/etc"),
            ("~ann", "/home/ann"),
            ("~ann/x/../y", "/home/ann/y"),
            ("/absolute/./a//b", "/absolute/a/b"),
            ("/../a", "/a"),
            ("a.gguf", "/work/dir/a.gguf"),
            ("./a b", "/work/dir/a b"),
            ("..", "/work"),
            ("../../../..", "/"),
            (".", "/work/dir"),
            ("", "/work/dir"),
            ("a~b", "/work/dir/a~b"),
        ] {
            assert_eq!(expand(&world(), base, path).unwrap(), Path::new(expected), "{path}");
        }
        assert_eq!(expand(&world(), Path::new(""), "../a").unwrap(), Path::new("../a"));
        assert_eq!(expand(&world(), Path::new("d"), "..").unwrap(), Path::new("."));
    }

    #[test]
    fn an_unknown_user_is_an_error() {
        for path in ["~bob/x", "~none/x", "~ann:x"] {
            let error = expand(&world(), Path::new("/"), path).unwrap_err();
            assert_eq!(error.0[0].code, "unknown-user", "{path}");
        }
        let error = expand(&MemoryWorld::default(), Path::new("/"), "~root").unwrap_err();
        assert_eq!(error.to_string(), "cannot expand `~root`: there is no user `root`");
    }
}
