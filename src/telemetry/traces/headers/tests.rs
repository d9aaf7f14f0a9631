use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const IDS: (u128, u64) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
const SHORT: (u128, u64) = (0x8448_eb21_1c80_319c, IDS.1);

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn read(fields: &[(&'static str, &str)]) -> Caller {
    Caller::read(&headers(fields))
}

#[test]
fn traceparent_is_read_as_w3c_says() {
    for (value, sampled) in [
        (format!("00-{TRACE}-{SPAN}-01"), true),
        (format!("00-{TRACE}-{SPAN}-00"), false),
        (format!("00-{TRACE}-{SPAN}-03"), true),
        (format!("00-{TRACE}-{SPAN}-fe"), false),
        // Later versions may have more behind.
        (format!("01-{TRACE}-{SPAN}-01-what-comes"), true),
        (format!("cc-{TRACE}-{SPAN}-01"), true),
    ] {
        let caller = read(&[("traceparent", &value)]);
        assert_eq!((caller.ids, caller.sampled, caller.is_w3c), (Some(IDS), Some(sampled), true), "{value}");
    }
    for bad in [
        String::new(),
        "00".to_owned(),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}-0x"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00_{TRACE}_{SPAN}_01"),
        format!("00-{TRACE}-+7ad6b7169203331-01"),
    ] {
        assert_eq!(read(&[("traceparent", &bad)]), Caller::default(), "{bad}");
    }
    let fine = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(read(&[("traceparent", &fine), ("traceparent", &fine)]), Caller::default(), "two of them are none");
    assert_eq!(trace_id(&headers(&[("traceparent", &fine)])).unwrap().to_string(), TRACE);
}

#[test]
fn b3_is_read_in_both_its_forms() {
    let short = &TRACE[16..];
    for (value, ids, sampled, debug) in [
        (format!("{TRACE}-{SPAN}-1"), Some(IDS), Some(true), false),
        (format!("{TRACE}-{SPAN}-0-05e3ac9a4f6e3b90"), Some(IDS), Some(false), false),
        (format!("{TRACE}-{SPAN}-d"), Some(IDS), Some(true), true),
        (format!("{short}-{SPAN}"), Some(SHORT), None, false),
        ("0".to_owned(), None, Some(false), false),
        ("1".to_owned(), None, Some(true), false),
        ("d".to_owned(), None, Some(true), true),
    ] {
        let caller = read(&[("b3", &value)]);
        assert_eq!((caller.ids, caller.sampled, caller.debug, caller.is_w3c), (ids, sampled, debug, false), "{value}");
    }
    for bad in ["", "2", "true", TRACE, &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-2"), &format!("{TRACE}-{SPAN}-1-{SPAN}-1")]
    {
        assert_eq!(read(&[("b3", bad)]), Caller::default(), "{bad}");
    }
    type Row<'a> = (&'a [(&'static str, &'a str)], Option<(u128, u64)>, Option<bool>, bool);
    let rows: [Row<'_>; 7] = [
        (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")], Some(IDS), Some(true), false),
        (&[("x-b3-traceid", short), ("x-b3-spanid", SPAN), ("x-b3-sampled", "false")], Some(SHORT), Some(false), false),
        (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")], Some(IDS), Some(true), true),
        (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], Some(IDS), None, false),
        (&[("x-b3-sampled", "0")], None, Some(false), false),
        (&[("x-b3-traceid", TRACE)], None, None, false),
        (&[("x-b3-traceid", "x"), ("x-b3-spanid", SPAN), ("x-b3-sampled", "maybe")], None, None, false),
    ];
    for (fields, ids, sampled, debug) in rows {
        let caller = read(fields);
        assert_eq!((caller.ids, caller.sampled, caller.debug), (ids, sampled, debug), "{fields:?}");
    }
}

#[test]
fn w3c_comes_first_and_what_is_malformed_hides_nothing() {
    let (w3c, b3) = (format!("00-{TRACE}-{SPAN}-00"), format!("00000000000000aa-{SPAN}-1"));
    assert_eq!(read(&[("b3", &b3), ("traceparent", &w3c)]).ids, Some(IDS));
    assert_eq!(read(&[("b3", &b3), ("traceparent", "00-x")]).ids, Some((0xaa, IDS.1)));
    assert_eq!(read(&[("b3", "?"), ("x-b3-sampled", "1")]).sampled, Some(true));
    // By this a client asks for a trace, where nobody has decided.
    assert_eq!(read(&[("x-client-trace-id", "any")]).sampled, Some(true));
    assert_eq!(read(&[("x-client-trace-id", "any"), ("b3", "0")]).sampled, Some(false));
}

/// The headers that are told, in all forms.
fn told(told: &Told, caller: &Caller) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    told.write(Forms { w3c: true, b3: true, b3_multi: true }, caller, |name, value| all.push((name, value)));
    all
}

#[test]
fn the_headers_are_written_as_each_form_wants_them() {
    let ours = Told { trace: SHORT.0, span: 1, parent: Some(2), sampled: true };
    let debug = Caller { ids: Some(SHORT), sampled: Some(true), debug: true, ..Caller::default() };
    let expected = [
        ("traceparent", "00-00000000000000008448eb211c80319c-0000000000000001-01"),
        ("b3", "8448eb211c80319c-0000000000000001-d-0000000000000002"),
        ("x-b3-traceid", "8448eb211c80319c"),
        ("x-b3-spanid", "0000000000000001"),
        ("x-b3-parentspanid", "0000000000000002"),
        ("x-b3-flags", "1"),
    ];
    assert_eq!(told(&ours, &debug), expected.map(|(name, value)| (name, value.to_owned())));
    // A trace of our own has a random id, and that is said (level 2).
    let own = told(&Told { trace: IDS.0, span: IDS.1, parent: None, sampled: false }, &Caller::default());
    assert_eq!(own[0].1, format!("00-{TRACE}-{SPAN}-02"));
    assert_eq!(own[1].1, format!("{TRACE}-{SPAN}-0"));
    assert_eq!(own.last(), Some(&("x-b3-sampled", "0".to_owned())));
}

proptest! {
    #[test]
    fn no_bytes_can_do_harm(fields in proptest::collection::vec(
        (0_usize..8, proptest::collection::vec(any::<u8>().prop_filter("allowed in headers", |b| *b == 9 || (*b >= 32 && *b != 127)), 0..80)), 0..6)) {
        const NAMES: [&str; 8] =
            [TRACEPARENT, TRACESTATE, B3, B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS];
        let headers: HeaderMap =
            fields.iter().map(|(name, value)| (HeaderName::from_static(NAMES[*name]), HeaderValue::from_bytes(value).unwrap())).collect();
        let caller = Caller::read(&headers);
        prop_assert!(caller.ids.is_none_or(|(trace, span)| trace != 0 && span != 0));
    }

    #[test]
    fn what_is_nearly_right_can_do_no_harm_either(value in "0{1,2}-?[0-9a-fA-F]{30,33}-[0-9a-f]{15,17}-?[0-9a-f]{0,3}-?", b3 in "[0-9a-f]{15,33}-[0-9a-f]{15,17}(-[01dx])?(-[0-9a-f]{16})?") {
        let caller = read(&[("traceparent", &value), ("b3", &b3)]);
        prop_assert!(caller.ids.is_none_or(|(trace, span)| trace != 0 && span != 0));
    }

    #[test]
    fn what_is_told_is_understood(trace in 1_u128.., span in 1_u64.., parent in proptest::option::of(1_u64..), sampled: bool) {
        let written = told(&Told { trace, span, parent, sampled }, &Caller::default());
        for form in [&["traceparent"][..], &["b3"], &["x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]] {
            let fields: Vec<(&'static str, &str)> =
                written.iter().filter(|(name, _)| form.contains(name)).map(|(name, value)| (*name, value.as_str())).collect();
            let caller = read(&fields);
            prop_assert_eq!((caller.ids, caller.sampled), (Some((trace, span)), Some(sampled)));
        }
    }
}
