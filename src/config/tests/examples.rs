//! Every folder of `examples` with a `main.yaml` loads.

use std::{fs, path::Path};

use crate::config::{main_file::MainFile, upstreams};

/// The set-ups.
pub(super) const EXAMPLES: [&str; 5] = ["site-and-api", "grpc", "websocket", "auth", "consul"];

#[test]
fn every_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let with_main = fs::read_dir(&folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().join("main.yaml").exists()).count();
    assert_eq!(with_main, EXAMPLES.len(), "each is in the list");
    for name in EXAMPLES {
        let text = fs::read_to_string(folder.join(name).join("main.yaml")).unwrap();
        let env = |name: &str| Some(format!("value-of-{name}"));
        let main =
            MainFile::parse_in(&text, &folder.join(name).join("main.yaml"), env).unwrap_or_else(|faults| panic!("{name}:\n{faults}"));
        let texts = upstreams::texts(&main, None).unwrap();
        let routes = upstreams::parse_in(&texts, &main, env).unwrap_or_else(|faults| panic!("{name}:\n{faults}"));
        assert!(!routes.routing.routes.is_empty(), "{name}");
    }
}
