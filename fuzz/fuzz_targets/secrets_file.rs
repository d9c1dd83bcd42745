//! The secrets file, as anyone may have left it. The first byte chooses the suffix.
#![no_main]

use libfuzzer_sys::fuzz_target;
use simpletuner_live::provider::file::parse_document;

fuzz_target!(|bytes: &[u8]| {
    if let [suffix, bytes @ ..] = bytes {
        let _ = parse_document(suffix & 1 == 1, bytes);
    }
});
