//! House rules that a compiler does not check: the order of the layers, who may touch redb, no machine paths, no float
//! where money is. Reads the sources as text, which is crude and enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules by layer, lowest first. A module imports only from lower layers; two modules of one layer are strangers.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["config", "dialect", "pricing", "budget", "policy", "rollup"],
    &["ledger"],
    &["store"],
    &["gateway", "control", "report"],
    &["notify"],
    &["web", "api"],
    &["app"],
    &["cli", "demo"],
    &["main", "lib"],
];

/// The command line starts the demo: the one pair of neighbours that know each other, one way.
const NEIGHBOURS: &[(&str, &str)] = &[("cli", "demo")];

/// Modules that compute money: no float may appear in them.
const MONEY: &[&str] = &["domain/money.rs", "domain/budget.rs", "pricing", "budget", "rollup", "ledger"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            rust_files(&entry, out);
        } else if entry.extension().is_some_and(|ext| ext == "rs") {
            out.push(entry);
        }
    }
}

/// Every source file: path below `src`, top module, and its text without comments and without its tests.
fn sources() -> Vec<(String, String, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let only_for_tests: Vec<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    files
        .into_iter()
        .filter(|path| !only_for_tests.iter().any(|test| path.with_extension("").starts_with(test)))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
            let module = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            (name, module, without_tests(&without_comments(&fs::read_to_string(&path).unwrap())))
        })
        .collect()
}

/// Modules that a file declares under `#[cfg(test)]`, as paths without extension.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let is_root = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs" || name == "main.rs");
    let folder = if is_root { file.parent().unwrap().to_path_buf() } else { file.with_extension("") };
    text.split("#[cfg(test)]\n")
        .skip(1)
        .filter_map(|rest| {
            let declared = rest.lines().next()?.trim().trim_start_matches("pub").trim_start_matches("(crate)").trim();
            let name = declared.strip_prefix("mod ")?.strip_suffix(';')?;
            Some(folder.join(name))
        })
        .collect()
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect::<Vec<_>>().join("\n")
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Top modules that a text names by `crate::`, groups (`use crate::{a, b::c}`) included.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for piece in text.split("crate::").skip(1) {
        if let Some(group) = piece.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(piece.to_owned());
        }
    }
    let ident =
        |text: &String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.iter().map(ident).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_module_imports_only_from_lower_layers() {
    let mut wrong = Vec::new();
    for (name, module, text) in sources() {
        let own =
            layer(&module).unwrap_or_else(|| panic!("module `{module}` ({name}) has no layer: give it one in LAYERS"));
        for import in imports(&text) {
            let Some(theirs) = layer(&import) else { continue };
            if import != module && theirs >= own && !NEIGHBOURS.contains(&(&module, &import)) {
                wrong.push(format!("{name} imports `{import}`"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_of_imports_sees_groups_and_paths() {
    let text = "use crate::{store::Ledger, domain::{Call, Money}};\nfn f() { crate::web::page() }";
    assert_eq!(imports(text), ["store", "domain", "web"]);
}

#[test]
fn only_the_store_knows_redb() {
    for (name, module, text) in sources() {
        let knows = ["redb::", "use redb", "extern crate redb"].iter().any(|needle| text.contains(needle));
        assert!(!knows || module == "store", "{name} uses redb: ask the store");
    }
}

#[test]
fn the_lower_layers_have_no_clock_no_files_and_no_async() {
    for (name, module, text) in sources() {
        if layer(&module).is_some_and(|l| l <= 2) && module != "config" {
            for needle in ["async fn", "std::fs", "std::net::Tcp", "SystemTime::now", "Timestamp::now", "Instant::now"]
            {
                assert!(!text.contains(needle), "{name} has `{needle}`: layers 0 to 2 are pure");
            }
        }
    }
}

#[test]
fn money_is_never_a_float() {
    for (name, _, text) in sources() {
        if MONEY.iter().any(|prefix| name.starts_with(prefix)) {
            for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
                assert!(word != "f32" && word != "f64", "{name} has a float");
            }
        }
    }
}

#[test]
fn no_file_names_a_machine() {
    let listing =
        Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git lists the files");
    assert!(listing.status.success(), "git ls-files failed: is this a checkout?");
    // Put together here so that this file does not name them itself.
    let needles: Vec<String> = [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/tmp", "/wt"], ["/Us", "ers/"]]
        .iter()
        .map(|parts| parts.concat())
        .collect();
    for name in String::from_utf8_lossy(&listing.stdout).split('\0').filter(|name| !name.is_empty()) {
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        for needle in &needles {
            let at = text.lines().position(|line| line.contains(needle.as_str()));
            assert!(at.is_none(), "{name}:{} names a machine path ({needle})", at.unwrap_or(0) + 1);
        }
    }
}
