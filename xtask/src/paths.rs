//! Where things are: the source tree, the build directory, caches.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The top of the source tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's build directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// A directory of ours under the build directory, made if it is not there.
pub fn cache(name: &str) -> Result<PathBuf> {
    let path = target().join("xtask").join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The QMP socket that `run` offers and `qmp` and `pull` use when none is named.
pub fn default_qmp_socket() -> Result<PathBuf> {
    Ok(cache("run")?.join("qmp.sock"))
}

/// Writes a file only when its content would change, so that times of unchanged files stay.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
