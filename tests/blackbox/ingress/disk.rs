//! A full disk: what cannot be written is told of, what serves goes on, and no file is cut.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
    time::Duration,
};

use anyhow::ensure;
use aralez_integration::{apps::http_echo, wait::eventually};

use super::{Edge, Setup, push};

const SOON: Duration = Duration::from_secs(20);
/// The size of the disk, KiB.
const DISK: u32 = 512;
/// What it gives out at a time, bytes.
const PAGE: usize = 4096;

/// Fills a disk but for one page.
fn fill(disk: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(disk.join("filling")).unwrap();
    let full = loop {
        if let Err(why) = file.write_all(&[b'x'; PAGE]) {
            break why;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    let pages = file.metadata().unwrap().len() / PAGE as u64;
    file.set_len((pages - 1) * PAGE as u64).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Routes that say their version, in a file of several pages.
fn routes(version: u32) -> String {
    let filling = format!("# {}\n", "x".repeat(1000)).repeat(20);
    format!("{filling}upstreams: {{DEFAULT: {{paths: {{/v{version}: {{redirect_to: 'https://elsewhere.test'}}}}}}}}\n")
}

async fn serves(edge: &Edge, version: u32) {
    for (path, status) in [(version, 301), (version + 1, 404)] {
        assert_eq!(edge.get("shop.test", &format!("/v{path}")).await.status, status, "version {version}: /v{path}");
    }
}

#[tokio::test]
async fn a_push_that_cannot_be_saved_changes_nothing_and_says_so_in_one_line() {
    let edge = Setup::new(&routes(1)).start_on_disk(DISK).await;
    let (disk, file) = (edge.disk(), edge.disk().join("upstreams.yaml"));
    fill(&disk);
    let before = names(&disk);
    let answer = push(&edge, "?save", &routes(2)).await;
    let told = answer.text();
    assert_eq!((answer.status.as_u16(), told.lines().count()), (500, 1), "{told}");
    assert!(told.contains("upstreams.yaml") && told.contains("No space left") && told.contains("nothing was changed"), "{told}");
    serves(&edge, 1).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), routes(1), "the old file, whole");
    assert_eq!(names(&disk), before, "nothing is left beside it");

    assert_eq!(push(&edge, "", &routes(3)).await.status, 200, "what is not saved needs no disk");
    serves(&edge, 3).await;
    fs::remove_file(disk.join("filling")).unwrap();
    assert_eq!(push(&edge, "?save", &routes(4)).await.status, 200);
    assert_eq!(fs::read_to_string(&file).unwrap(), routes(4));
    serves(&edge, 4).await;
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_holds_no_request_up() {
    let app = http_echo("app").await.unwrap();
    let routes = format!("upstreams: {{DEFAULT: {{paths: {{/: {{servers: ['http://{}'], healthcheck: false}}}}}}}}\n", app.address);
    let edge = Setup::new(&routes).main("access_log: access.log").start_on_disk(DISK).await;
    let log = edge.disk().join("access.log");
    let ask = async |path: &str| {
        for _ in 0..50 {
            assert_eq!(edge.get("shop.test", path).await.status, 200);
        }
    };
    let has = async |path: &str| {
        let there = eventually("the lines", SOON, async || {
            let text = fs::read_to_string(&log)?;
            let lines = text.lines().filter(|line| line.contains(path)).count();
            ensure!(lines == 50 && text.ends_with('\n'), "{lines} lines of {path}");
            Ok(text)
        });
        there.await.unwrap()
    };
    ask("/before").await;
    has("/before").await;
    fill(&edge.disk());
    // Until the page that is left is full, too.
    for _ in 0..4 {
        ask("/lost").await;
    }
    edge.aralez.logged("access log lines are lost", SOON).await;
    assert_eq!(edge.aralez.log().matches("access log lines are lost").count(), 1, "told once, not for each line");
    let metrics = edge.aralez.admin("/metrics").await.unwrap().text();
    let lost =
        metrics.lines().find_map(|line| line.strip_prefix("aralez_access_log_dropped_total ")).unwrap_or_else(|| panic!("{metrics}"));
    assert!(lost.parse::<u64>().unwrap() > 0);
    fs::remove_file(edge.disk().join("filling")).unwrap();
    ask("/after").await;
    let text = has("/after").await;
    let broken = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err()).count();
    assert!(broken <= 1, "{broken} lines are cut, where the disk became full at most once");
    edge.aralez.logged("the access log is written again", SOON).await;
}
