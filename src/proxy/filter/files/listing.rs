//! What is in a folder, as a page.

use std::{fmt::Write as _, path::PathBuf};

use http::header::CONTENT_TYPE;
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use rustix::fs::{Dir, OFlags};

use super::{SEGMENT, not_found, root::Root};
use crate::proxy::refusal::{Answer, Refusal};

/// The most entries that a page has.
const MOST: usize = 10_000;

/// The page of a folder that clients know as `path`.
pub async fn answer(root: &Root, folder: PathBuf, path: &str) -> Refusal {
    let (root, title) = (root.clone(), percent_decode_str(path).decode_utf8_lossy().into_owned());
    let page = tokio::task::spawn_blocking(move || entries(&root, &folder).map(|entries| page(&title, &entries))).await;
    match page {
        Ok(Some(page)) => Answer::new(200, "files_listing").header(CONTENT_TYPE, "text/html; charset=utf-8").body(page).into(),
        _ => not_found(),
    }
}

/// The names in a folder, folders with a slash behind and first. Left out is what would not be served: dot files, links that lead out of the root, and
/// what is neither file nor folder.
fn entries(root: &Root, folder: &PathBuf) -> Option<Vec<String>> {
    let listed = Dir::new(root.opened(folder, OFlags::RDONLY | OFlags::DIRECTORY).ok()?).ok()?;
    let mut entries = Vec::new();
    for entry in listed.filter_map(Result::ok).take(MOST) {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with('.') || name.contains('\\') {
            continue;
        }
        let Ok(file) = root.opened(&folder.join(name), OFlags::PATH) else { continue };
        match std::fs::File::from(file).metadata() {
            Ok(found) if found.is_dir() => entries.push(format!("{name}/")),
            Ok(found) if found.is_file() => entries.push(name.to_owned()),
            _ => {}
        }
    }
    entries.sort_by_key(|name| (!name.ends_with('/'), name.clone()));
    Some(entries)
}

fn page(title: &str, entries: &[String]) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1>\n<ul>\n<li><a href=\"../\">../</a></li>\n"
    );
    for entry in entries {
        let (name, slash) = entry.strip_suffix('/').map_or((&**entry, ""), |name| (name, "/"));
        let _ = writeln!(page, "<li><a href=\"{}{slash}\">{}</a></li>", utf8_percent_encode(name, SEGMENT), escaped(entry));
    }
    page + "</ul></body></html>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        let page = page("/<b>/", &["a:b\"/".to_owned(), "<script>alert(1)</script>&'.txt".to_owned()]);
        assert!(page.contains("<h1>/&lt;b&gt;/</h1>"), "{page}");
        assert!(page.contains("<a href=\"a%3Ab%22/\">a:b&quot;/</a>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#39;.txt</a>") && !page.contains("<script"), "{page}");
    }
}
