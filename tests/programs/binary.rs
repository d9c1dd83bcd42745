//! Bytes are read as they were written, the newline at the end too. Bytes that are not UTF-8 are refused in a call whose
//! result programs check.

use super::*;

#[test]
fn bytes_that_can_never_become_text_fail_at_the_write() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
for bad in (b'\xff', b'ok\xfe', b'\xc0\x80', b'\xed\xa0\x80', b'\xf5abc', b'\x80', b'a\xc3('):
    for name in ('K', 'NEW'):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        refused(errno.EILSEQ, os.write, fd, bad)
        outcome(os.close, fd)
        same((text('K'), text('NEW')), ('old', None), repr(bad))
# What may still become text is taken until the close.
fd = os.open('K', os.O_WRONLY | os.O_TRUNC)
for byte in 'schlüssel-鍵-🔑'.encode(): same(os.write(fd, bytes([byte])), 1)
os.close(fd)
same(text('K'), 'schlüssel-鍵-🔑')
fd = os.open('K', os.O_WRONLY | os.O_TRUNC); os.pwrite(fd, b'\xbc', 1); os.pwrite(fd, b'\xc3', 0); os.close(fd)
same(text('K'), 'ü')
fd = os.open('K', os.O_WRONLY | os.O_TRUNC); write(fd, 'cut ' + 'x'); os.write(fd, b'\xc3')
refused(errno.EILSEQ, os.close, fd)
same(text('K'), 'ü', 'a character that was never ended')
"#,
    );
}

#[test]
fn programs_that_write_bytes_say_that_they_failed() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
for k in A B C D; do echo old > $k; done
openssl rand -out A 64 2> /dev/null && [ $(stat -c %s A) != 64 ] && echo 'openssl rand: said done'
python3 -c "
with open('B', 'wb') as f: f.write(b'\xff' * 32)" 2> /dev/null && echo 'python: said done'
printf '\377\376' > C 2> /dev/null && echo 'printf: said done'
head -c 100 /dev/urandom | dd of=D status=none 2> /dev/null && echo 'dd: said done'
head -c 100 /dev/urandom | tee D > /dev/null 2>&1 && echo 'tee: said done'
head -c 100 /dev/urandom > ~/r; cp ~/r D 2> /dev/null && echo 'cp: said done'
for k in B C D; do [ "$(cat $k)" = old ] || echo "$k: $(od -c $k | head -3)"; done
"#,
    );
    assert_eq!(said, "");
}

#[test]
fn a_value_that_is_too_large_fails_at_the_write_and_changes_nothing() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'x' * 65536); same(os.stat('K').st_size, 65536)
put('K', 'old')
def too_large(): put('K', 'x' * 65537)
refused(errno.EFBIG, too_large)
fd = os.open('K', os.O_WRONLY); refused(errno.EFBIG, os.pwrite, fd, b'x', 65536); outcome(os.close, fd)
fd = os.open('K', os.O_WRONLY); refused(errno.EFBIG, os.ftruncate, fd, 65537); outcome(os.close, fd)
same(text('K'), 'old')
"#,
    );
}

#[test]
fn a_file_holds_exactly_what_was_written_to_it() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
for value in ('v\n', 'v', '\n', '\n\n', 'a\nb', 'a\nb\n', 'a\n\n', ' v ', '\tv\r\n', '', '\0', '{"a": 1}\n', 'ü\n'):
    put('K', value)
    same((os.stat('K').st_size, text('K'), other.read('K').encode('latin-1').decode()), (len(value.encode()), value, value))
    put('.n', value); os.rename('.n', 'K'); same(text('K'), value, 'moved')
    os.rename('K', 'L'); same(text('L'), value, 'renamed')
    os.unlink('L')
"#,
    );
}

#[test]
fn a_value_is_kept_exactly_over_a_new_server_and_a_new_mount() {
    let live = Live::start();
    bash(
        &live,
        "secrets",
        "echo one > A; printf two > B; printf 'x\\ny\\n' > C",
    );
    let wanted = "one\ntwox\ny\n4 A\n3 B\n4 C\n";
    let look = "cat A B C; stat -c '%s %n' A B C";
    assert_eq!(bash(&live, "secrets", look), wanted);
    support::home::signal("KILL", live.server_pid());
    assert_eq!(bash(&live, "secrets", look), wanted, "a new server");
    let live = Live::start_in(live.stop(), Setup::default());
    assert_eq!(bash(&live, "secrets", look), wanted, "a new mount");
}

#[test]
fn a_value_is_given_without_the_newline_that_echo_puts_after_a_single_line() {
    let live = Live::start();
    bash(
        &live,
        "secrets",
        "echo one > A; printf 'x\\ny\\n' > B; printf '\\n' > C; printf 'two\\n\\n' > D",
    );
    assert_eq!(live.read("secrets/A"), "one\n");
    let bundle = live.json("bundle/secrets.json");
    let values = ["A", "B", "C", "D"].map(|key| bundle[key].as_str().unwrap());
    assert_eq!(values, ["one", "x\ny\n", "", "two\n\n"]);
    for through in [&["get"][..], &["get", "--no-mount"][..]] {
        let got = ["A", "B", "C", "D"].map(|key| {
            let args = [through, &[key][..]].concat();
            String::from_utf8(cli(&live, &args).stdout).unwrap()
        });
        assert_eq!(got, values, "{through:?}");
    }
    assert!(live.read("bundle/secrets.env").contains("A=one\n"));
    for (said, stored) in [("three\n", "three"), ("x\ny\n", "x\ny\n"), ("four", "four")] {
        std::fs::write(live.home("value"), said).unwrap();
        let bin = support::home::BINARY;
        bash(&live, "", &format!("{bin} set E < ~/value"));
        assert_eq!(live.read("secrets/E"), stored);
    }
}

#[test]
fn where_values_are_stored_in_plain_the_newline_is_dropped_at_the_write() {
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", "encrypt: false\n")],
        ..Setup::default()
    });
    bash(&live, "secrets", "echo one > A; printf 'x\\ny\\n' > B");
    let stored = std::fs::read(live.home(".simpletuner/secrets.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(
        (&stored["A"], &stored["B"]),
        (&"one".into(), &"x\ny\n".into())
    );
    assert_eq!(live.read("secrets/A"), "one");
}

#[test]
fn appended_lines_stay_lines() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
echo 'machine a login b password c' > NETRC; echo 'machine d login e password f' >> NETRC; cat NETRC
for key in one two three; do echo "ssh-ed25519 $key" >> AUTHORIZED; done; cat AUTHORIZED
echo PATH=/bin | tee -a ENVIRONMENT > /dev/null; echo HOME=/ | tee -a ENVIRONMENT > /dev/null; cat ENVIRONMENT
htpasswd -cbB HTPASSWD a secret 2> /dev/null; htpasswd -bB HTPASSWD b secret 2> /dev/null
cut -d: -f1 HTPASSWD; htpasswd -vb HTPASSWD a secret 2>&1 | grep -c correct; htpasswd -D HTPASSWD a 2> /dev/null; cut -d: -f1 HTPASSWD
"#,
    );
    assert_eq!(
        said,
        "machine a login b password c\nmachine d login e password f\n\
         ssh-ed25519 one\nssh-ed25519 two\nssh-ed25519 three\nPATH=/bin\nHOME=/\na\nb\n1\nb\n"
    );
}

#[test]
fn keys_that_are_made_in_place_are_whole() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
openssl genpkey -algorithm ed25519 -out KEY 2> /dev/null && openssl pkey -in KEY -pubout -out PUB
head -1 KEY PUB; openssl pkey -in KEY -noout && openssl pkey -pubin -in PUB -noout && echo both are keys
openssl rand -hex -out HEX 16; wc -c < HEX; openssl rand -base64 48 > B64; wc -l < B64
openssl genpkey -algorithm ed25519 -outform DER -out KEY 2> /dev/null; head -1 KEY
"#,
    );
    assert_eq!(
        said,
        "==> KEY <==\n-----BEGIN PRIVATE KEY-----\n\n==> PUB <==\n-----BEGIN PUBLIC KEY-----\nboth are keys\n33\n1\n-----BEGIN PRIVATE KEY-----\n"
    );
}

#[test]
fn a_shell_that_reads_lines_reads_a_secret() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
echo hf_abc > K
bash -ec 'read -r T < K; echo "read $T"'
while read -r line; do echo "line $line"; done < K
mapfile -t lines < K; echo "${#lines[@]} ${lines[0]}"
echo "$(< K) $(cat K)"; wc -l < K
"#,
    );
    assert_eq!(
        said,
        "read hf_abc\nline hf_abc\n1 hf_abc\nhf_abc hf_abc\n1\n"
    );
}

#[test]
fn read_wants_a_newline_and_a_substitution_does_not() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
printf hf_abc > K
read -r T < K && echo done; echo "read $T"
set -e; T=$(< K); echo "substituted $T"; T=$(cat K); echo "cat $T"
"#,
    );
    assert_eq!(said, "read hf_abc\nsubstituted hf_abc\ncat hf_abc\n");
}

/// The first write and the last one would be a text without the second.
#[test]
fn a_value_of_which_a_write_was_refused_is_not_stored_without_that_part() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('K', 'old')
def with_a_refused_part(name, code, part, at=None):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write(fd, 'begin ')
    refused(code, os.pwrite if at else os.write, fd, part, *([at] if at else []))
    refused(code, os.write, fd, b'end')
    return fd
for code, part, at in ((errno.EILSEQ, b'\xff', None), (errno.EFBIG, b'x', 65536), (errno.EFBIG, b'x' * 65537, None)):
    for name in ('K', 'NEW'):
        refused(code, os.close, with_a_refused_part(name, code, part, at))
        same((other.read('K'), other.read('NEW'), other.list()), ('old', None, ['K']), 'as it was')
        # A writer that begins anew has a value again.
        fd = with_a_refused_part(name, code, part, at)
        os.ftruncate(fd, 0); os.pwrite(fd, b'anew', 0); os.close(fd)
        same(other.read(name), 'anew')
        put('K', 'old'); name == 'NEW' and os.unlink('NEW')
"#,
    );
}

#[test]
fn a_scratch_file_for_which_there_was_no_room_is_never_renamed_over_a_value_without_that_part() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
for i in range(4): put(f'.full{i}', 'x' * ((16 << 20) - (4 << 10) * (i == 3)))
fd = os.open('.new', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
write(fd, 'b' * (4 << 10))
refused(errno.ENOSPC, os.write, fd, b'e')
outcome(os.close, fd)
refused(errno.ENOSPC, os.rename, '.new', 'K')
same(text('K'), 'old')
for i in range(4): os.unlink(f'.full{i}')
put('.new', 'new'); os.rename('.new', 'K')
same(text('K'), 'new', 'there is room again')
"#,
    );
}
