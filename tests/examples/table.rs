//! What the examples need that a new home does not have, and which of them are not run.

/// How an example is run.
#[derive(PartialEq, Eq)]
pub enum How {
    /// In bash, and it ends by itself with exit code 0.
    Bash,
    /// The same in zsh.
    Zsh,
    /// When it shows this text, these keys end it with this exit code.
    Ended {
        shows: &'static str,
        keys: &'static str,
        code: i32,
    },
    /// It is not run, for this reason.
    Not(&'static str),
}

/// An example that is not simply run.
pub struct Row {
    /// Without its comment.
    pub example: &'static str,
    /// A script that comes before it.
    pub before: &'static str,
    pub how: How,
    pub users: &'static [&'static str],
}

const ALL: &[&str] = &["root", "nobody"];
const ROOT: &[&str] = &["root"];

const fn after(example: &'static str, before: &'static str) -> Row {
    Row {
        example,
        before,
        how: How::Bash,
        users: ALL,
    }
}

const fn not(example: &'static str, reason: &'static str) -> Row {
    Row {
        example,
        before: "",
        how: How::Not(reason),
        users: ALL,
    }
}

const fn ended(
    example: &'static str,
    before: &'static str,
    shows: &'static str,
    keys: &'static str,
    code: i32,
) -> Row {
    Row {
        example,
        before,
        how: How::Ended { shows, keys, code },
        users: ALL,
    }
}

const fn as_root(example: &'static str, before: &'static str) -> Row {
    Row {
        example,
        before,
        how: How::Bash,
        users: ROOT,
    }
}

/// In each new home, before a command's examples.
pub const FIXTURE: &str = r#"
set -e
mkdir -p secrets-live backup node-exporter ~/.config/fish/completions .ssh
ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
age-keygen -o identity 2> /dev/null
(umask 077; echo 'correct horse' > .backup-passphrase)
printf 'one\ntwo\n' > key.pem
printf 'A=1\nB=2\n' > .env
echo '{"C": "3"}' > secrets.json
echo 'D: "4"' > secrets.yaml
printf '#!/bin/sh\n' > server; chmod +x server
cat > all.json <<'EOF'
{"HF_TOKEN": "hf_1", "WANDB_API_KEY": "w", "REPLICATE_API_TOKEN": "r", "DB_PASSWORD": "d", "OLDER_KEY": "o",
 "TLS_KEY": "one\ntwo\n", "OLD_KEY": "o"}
EOF
simpletuner-live import all.json --yes
for value in hf_2 hf_3; do printf $value | simpletuner-live set HF_TOKEN; done
"#;

/// Programs that stand for those of another machine, or for large ones.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("sudo", "#!/bin/sh\nexec \"$@\"\n"),
    ("ssh", "#!/bin/sh\nshift\nexec sh -c \"$*\"\n"),
    ("cargo", "#!/bin/sh\n"),
    ("python", "#!/bin/sh\n[ -n \"$HF_TOKEN\" ]\n"),
    ("code", "#!/bin/sh\necho changed > \"$2\"\n"),
    (
        "sops",
        "#!/bin/sh\n[ \"$1\" = -e ] && exec cat\nexec cat \"$2\"\n",
    ),
    ("vault", "#!/bin/sh\ngrep -q path\n"),
    (
        "docker",
        "#!/bin/sh\nfolder=${3#*src=}; [ -d \"${folder%%,*}\" ]\n",
    ),
];

/// Places of a machine, and where they are in the test's home.
pub const SUBSTITUTES: &[(&str, &str)] = &[
    ("/run/secrets-live", "~/secrets-live"),
    ("/backup/", "~/backup/"),
    ("/var/lib/prometheus/node-exporter/", "~/node-exporter/"),
    ("age1ql3z7hjy...", "$(age-keygen -y identity)"),
];

const MOUNTED_ELSEWHERE: &str = "simpletuner-live mount ~/secrets-live";
const UNMOUNTED: &str = "simpletuner-live umount || :";
const BACKUP: &str = "rm -f ~/secrets.age; simpletuner-live backup ~/secrets.age --passphrase-file ~/.backup-passphrase";
const VIEW: &str = "simpletuner-live view create trainer --secret 'HF_*'";

pub const ROWS: &[Row] = &[
    after("simpletuner-live mount", UNMOUNTED),
    // An ordinary user needs a line in /etc/fuse.conf.
    as_root(
        "simpletuner-live mount /run/secrets-live --allow-root",
        UNMOUNTED,
    ),
    ended(
        "simpletuner-live mount --foreground",
        "simpletuner-live umount || :; simpletuner-live umount ~/secrets-live || :",
        "serving",
        "\x03",
        0,
    ),
    after("simpletuner-live umount", "simpletuner-live mount"),
    after(
        "simpletuner-live umount /run/secrets-live",
        MOUNTED_ELSEWHERE,
    ),
    after("simpletuner-live umount --lazy", "simpletuner-live mount"),
    after("simpletuner-live umount --force", "simpletuner-live mount"),
    after(
        "simpletuner-live reload /run/secrets-live",
        MOUNTED_ELSEWHERE,
    ),
    after(
        "simpletuner-live upgrade /run/secrets-live",
        MOUNTED_ELSEWHERE,
    ),
    not(
        "sudo simpletuner-live upgrade --all",
        "fails if a mount of another test does not answer; packaging::all runs it",
    ),
    ended("simpletuner-live top", "", "PROVIDER", "q", 0),
    ended("simpletuner-live top --interval 5", "", "PROVIDER", "q", 0),
    ended(
        "simpletuner-live audit tail -f",
        "",
        "HF_TOKEN",
        "\x03",
        130,
    ),
    ended(
        "simpletuner-live audit tail -f --json | jq .",
        "",
        "HF_TOKEN",
        "\x03",
        130,
    ),
    not(
        "simpletuner-live audit verify --hash \"$HASH\"",
        "the digits are those that somebody has noted: state::audit tests it",
    ),
    after(
        "simpletuner-live adopt && simpletuner-live mount",
        UNMOUNTED,
    ),
    after(
        "simpletuner-live backup ~/secrets.age -r age1ql3z7hjy... -R ~/.ssh/id_ed25519.pub",
        "rm ~/secrets.age",
    ),
    after(
        "cd ~/.simpletuner && age -d ~/secrets.age | tar -x",
        "rm -f ~/secrets.age; simpletuner-live backup ~/secrets.age --passphrase-file ~/.backup-passphrase; simpletuner-live umount",
    ),
    after("simpletuner-live restore ~/secrets.age --dry-run", BACKUP),
    after(
        "simpletuner-live run --env hf-token=HF_TOKEN --file TLS_KEY=KEY_FILE -- ./server",
        "printf h | simpletuner-live set hf-token",
    ),
    after(
        "simpletuner-live undo HF_TOKEN --steps 2",
        "echo 'keep_previous: 5' > ~/.simpletuner/live.yaml; simpletuner-live reload
         for value in 4 5 6; do printf $value | simpletuner-live set HF_TOKEN; done",
    ),
    after(
        "ssh nas cat secrets.age | simpletuner-live restore - -i ~/.ssh/id_ed25519 --yes",
        "rm ~/secrets.age; simpletuner-live backup ~/secrets.age -R ~/.ssh/id_ed25519.pub",
    ),
    Row {
        example: "source <(simpletuner-live completions zsh)",
        before: "",
        how: How::Zsh,
        users: ALL,
    },
    after(
        "simpletuner-live doctor --policy vault | vault policy write simpletuner-live -",
        "printf 'vault_url: http://127.0.0.1:1\\nvault_path: s\\n' > ~/.simpletuner/live.yaml",
    ),
    after(
        "docker run --mount type=bind,src=\"$(simpletuner-live view path trainer)\",dst=/run/secrets ...",
        VIEW,
    ),
    after("simpletuner-live view rm trainer", VIEW),
    after("ls \"$(simpletuner-live view path trainer)\"", VIEW),
    after("simpletuner-live view ls --json | jq '.trainer.path'", VIEW),
    not(
        "simpletuner-live view cdi",
        "it writes to /etc/cdi: containers::cdi tests it",
    ),
    not(
        "podman run --device simpletuner.live/view=trainer ...",
        "it needs an image: containers::cdi tests it",
    ),
    not(
        "sudo simpletuner-live install-man",
        "it writes to /usr/local: packaging::manual tests it",
    ),
    not(
        "sudo simpletuner-live install-service --system --user trainer /run/trainer/live",
        "it writes to /etc/systemd, for a user who is not here: survival::service tests it",
    ),
    Row {
        example: "simpletuner-live install-man && man simpletuner-live-get",
        before: "",
        how: How::Bash,
        // Root's pages are in /usr/local.
        users: &["nobody"],
    },
];
