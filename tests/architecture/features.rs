//! The promises of the feature table, each with the tests that keep it: `docs/features.md` is made of this.

use std::{fs, path::Path};

/// A row of the table, and its tests; none is a promise that is not kept yet.
const FEATURES: &[(&str, &[&str])] = &[
    (
        "Hot Reload (Zero Downtime)",
        &[
            "two_hundred_reloads_under_load_fail_no_request_and_end_nothing",
            "a_fault_changes_nothing_and_is_told_until_it_is_mended",
            "sighup_takes_the_files_for_a_push_and_a_late_folder_is_found",
        ],
    ),
    (
        "Auto Cert Reload (from disk)",
        &[
            "a_renewed_pair_is_shown_without_a_failed_handshake_and_others_are_untouched",
            "a_bad_pair_holds_nobody_back_and_the_last_one_removed_stays",
            "certificates_are_ordered_and_served_by_http_01",
        ],
    ),
    (
        "Auth: Basic / API Key / JWT",
        &[
            "each_kind_says_what_it_wants_and_keeps_credentials_to_itself_when_told",
            "the_policy_of_the_matched_route_holds_however_its_path_is_spelled",
            "h13_issued_tokens_are_accepted_and_do_not_travel_on",
        ],
    ),
    ("TLS / HTTP2 Termination", &["h2spec", "h2spec_of_the_reverse_proxy", "h08_the_grade_holds_for_every_name_and_servers_are_verified"]),
    ("Built-in A+ TLS Grades", &["sslyze_rates_high_a_plus_medium_a_and_unsafe_b"]),
    ("gRPC Proxy", &["servers_of_any_protocol_need_no_scheme", "two_hundred_reloads_under_load_fail_no_request_and_end_nothing"]),
    ("SSL Proxy", &["servers_of_any_protocol_need_no_scheme", "tls_that_cannot_be_verified_is_refused_with_advice"]),
    ("HTTP/2 Proxy", &["servers_of_any_protocol_need_no_scheme"]),
    (
        "WebSocket Proxy",
        &["servers_of_any_protocol_need_no_scheme", "requests_in_flight_are_answered_and_websockets_kept_until_the_grace_ends"],
    ),
    (
        "Sticky Sessions",
        &[
            "a_cookie_stays_with_its_server_and_opens_nothing",
            "the_cookie_is_kept_to_tls_where_it_was_given_over_tls_and_holds_after_reloads",
            "h01_a_sticky_cookie_selects_a_server_and_no_policy",
        ],
    ),
    (
        "Prometheus Metrics",
        &[
            "a_server_that_fails_its_checks_gets_no_requests_and_a_metric_says_so",
            "h16_no_client_makes_series_and_the_log_tells_time_and_server",
        ],
    ),
    ("Consul Integration", &["h10_instances_follow_their_checks_and_outlive_the_agent", "h10_the_token_is_sent_and_its_lack_shows"]),
    ("Kubernetes Integration", &["ingresses_are_routes_that_follow_endpoints", "what_was_known_stays_while_the_api_server_fails"]),
    ("Request Limiter", &["each_path_has_the_limit_that_is_nearest_to_it", "h12_a_limit_is_that_of_its_route"]),
    (
        "Serve Static Files",
        &["files_are_served_by_a_route_and_by_a_listener_of_their_own", "nothing_outside_the_folder_and_no_dot_file_is_served"],
    ),
    (
        "Upstream Health Checks",
        &[
            "a_server_that_fails_its_checks_gets_no_requests_and_a_metric_says_so",
            "h15_a_server_that_hangs_is_no_healthy_one_and_redirects_are_not_followed",
        ],
    ),
    ("Built With Rust", &["every_room_names_only_the_rooms_it_may"]),
];

/// The page.
fn page() -> String {
    let mut page = "# Features, each with the tests that keep the promise\n\n\
                    Made by `cargo test --test architecture` with `WRITE_PAGES=1`; the same test sees that every test named here exists.\n\n\
                    | feature | tests |\n|---|---|\n"
        .to_owned();
    for (feature, tests) in FEATURES {
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        let tests = if tests.is_empty() { "not yet".to_owned() } else { tests.join(", ") };
        page += &format!("| {feature} | {tests} |\n");
    }
    page
}

#[test]
fn every_promised_feature_has_its_tests_and_the_page_says_so() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "tests", "integration/tests"] {
        super::sources(&root.join(folder), &mut sources);
    }
    let texts: Vec<String> = sources.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_there = |test: &str| texts.iter().any(|text| text.contains(&format!("fn {test}(")));
    let missing: Vec<&&str> = FEATURES.iter().flat_map(|(_, tests)| *tests).filter(|test| !is_there(test)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    super::fresh("docs/features.md", &page());
}
