//! AWS as moto imitates it: Secrets Manager, and IAM and STS where a test checks permissions.

use std::process::Command;

use serde_json::{Value, json};

use super::{MOTO, Server, request, tool};

/// moto accepts any key, unless a test has it check permissions.
pub const ACCESS_KEY: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "hunter2-aws-secret-access-key");
pub const REGION: &str = "us-west-2";

/// A moto server for one test.
pub struct Moto(Server);

impl Moto {
    pub fn start() -> Self {
        Self(Server::start(|port| {
            let mut command = Command::new(tool(MOTO));
            let port = port.to_string();
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
            command.env_remove("AWS_PROFILE");
            command
        }))
    }

    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The variables of a client of it.
    pub fn env(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            // None but what the test says.
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Has the secret hold this text.
    pub fn put(&self, secret: &str, text: &str) {
        self.store(secret, "SecretString", text);
    }

    /// Has the secret hold these bytes, in base64.
    pub fn put_binary(&self, secret: &str, base64: &str) {
        self.store(secret, "SecretBinary", base64);
    }

    fn store(&self, secret: &str, field: &str, content: &str) {
        let put = json!({"SecretId": secret, field: content, "ClientRequestToken": token()});
        if self.call("PutSecretValue", &put).0 == 200 {
            return;
        }
        let create = json!({"Name": secret, field: content, "ClientRequestToken": token()});
        let (status, said) = self.call("CreateSecret", &create);
        assert_eq!(status, 200, "{said}");
    }

    /// The secret is gone at once.
    pub fn delete(&self, secret: &str) {
        let delete = json!({"SecretId": secret, "ForceDeleteWithoutRecovery": true});
        assert_eq!(self.call("DeleteSecret", &delete).0, 200);
    }

    /// The secret is to be gone in a week, and cannot be read meanwhile.
    pub fn mark_for_deletion(&self, secret: &str) {
        let delete = json!({"SecretId": secret, "RecoveryWindowInDays": 7});
        assert_eq!(self.call("DeleteSecret", &delete).0, 200);
    }

    fn call(&self, action: &str, body: &Value) -> (u16, String) {
        let target = format!("secretsmanager.{action}");
        let headers = [
            ("x-amz-target", target.as_str()),
            ("content-type", "application/x-amz-json-1.1"),
            ("authorization", &authorization("secretsmanager")),
        ];
        request("POST", &self.url(), &headers, body.to_string())
    }

    /// An access key of a new user who may do what the policy says and nothing else. From then on, moto checks who asks.
    pub fn user(&self, policy: &Value) -> (String, String) {
        let name = "UserName=trainer";
        self.iam(&format!("Action=CreateUser&{name}"));
        let document = policy.to_string();
        let escaped: String = document.bytes().map(|b| format!("%{b:02X}")).collect();
        self.iam(&format!(
            "Action=PutUserPolicy&{name}&PolicyName=p&PolicyDocument={escaped}"
        ));
        let made = self.iam(&format!("Action=CreateAccessKey&{name}"));
        let between = |tag: &str| {
            let (_, rest) = made.split_once(&format!("<{tag}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        let (status, said) = request(
            "POST",
            &format!("{}/moto-api/reset-auth", self.url()),
            &[],
            "0",
        );
        assert_eq!(status, 200, "{said}");
        (between("AccessKeyId"), between("SecretAccessKey"))
    }

    fn iam(&self, form: &str) -> String {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", &authorization("iam")),
        ];
        let form = format!("{form}&Version=2010-05-08");
        let (status, said) = request("POST", &self.url(), &headers, form);
        assert_eq!(status, 200, "{said}");
        said
    }
}

/// By which moto knows the service.
fn authorization(service: &str) -> String {
    let key = ACCESS_KEY.0;
    format!(
        "AWS4-HMAC-SHA256 Credential={key}/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// A new one for each version of a secret.
fn token() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "00000000-0000-4000-8000-{:012}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
