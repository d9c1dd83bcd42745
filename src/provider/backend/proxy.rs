//! Which proxy a request goes through: the variables that curl and Go's programs read. Makes no connection.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

/// The proxies of the environment, and the destinations that need none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
    /// Whether local addresses need a proxy, too.
    is_for_local: bool,
}

/// A proxy, and the variable that names it. `Display` shows no password.
#[derive(Clone)]
pub(crate) struct Proxy {
    url: Result<Url, &'static str>,
    variable: &'static str,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug)]
enum Direct {
    Everything,
    Network(IpNet, Option<u16>),
    /// A name and all names below it.
    Domain(String, Option<u16>),
}

impl Proxies {
    /// The proxies that this process's environment names.
    pub(crate) fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// An empty variable counts as unset, and the first of a line counts.
    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&'static str| Some((*name, variable(name).filter(|v| !v.is_empty())?));
        // A CGI program has the header `Proxy` of a request in HTTP_PROXY.
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let proxy = |names: &[&'static str]| {
            let (variable, text) = names.iter().find_map(set)?;
            Some(Proxy::new(&text, variable))
        };
        let all = || proxy(&["ALL_PROXY", "all_proxy"]);
        let http: &[_] = match is_cgi {
            true => &["http_proxy"],
            false => &["HTTP_PROXY", "http_proxy"],
        };
        let no = ["NO_PROXY", "no_proxy"].iter().find_map(set);
        let no = no.map(|(_, text)| text).unwrap_or_default();
        let entries = no.split(|c: char| c == ',' || c.is_whitespace());
        Self {
            http: proxy(http).or_else(all),
            https: proxy(&["HTTPS_PROXY", "https_proxy"]).or_else(all),
            direct: entries
                .filter(|entry| !entry.is_empty())
                .map(Direct::parse)
                .collect(),
            is_for_local: false,
        }
    }

    /// One proxy for all requests, whatever the environment says.
    pub(crate) fn only(text: &str, variable: &'static str) -> Self {
        let proxy = Some(Proxy::new(text, variable));
        Self {
            http: proxy.clone(),
            https: proxy,
            direct: Vec::new(),
            is_for_local: true,
        }
    }

    /// The proxy for this address; `None`: it is asked directly. Loopback and link-local addresses always are.
    pub(crate) fn find(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let host = Host::of(url)?;
        let is_local = host.is_local() && !self.is_for_local;
        let is_direct = is_local || self.direct.iter().any(|direct| direct.has(&host));
        (!is_direct).then_some(proxy)
    }
}

impl Proxy {
    fn new(text: &str, variable: &'static str) -> Self {
        let text = text.trim();
        // `proxy:3128` alone would be a URL of the scheme `proxy`.
        let url = match text.contains("://") {
            true => Url::parse(text),
            false => Url::parse(&format!("http://{text}")),
        };
        Self {
            url: match url {
                Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                    Err("must begin with http:// or https://")
                }
                Ok(url) if url.has_host() => Ok(url),
                _ => Err("is not the address of a proxy"),
            },
            variable,
        }
    }

    /// Its address, which may have a password in it.
    ///
    /// # Errors
    /// The variable, and what is wrong with it.
    pub(crate) fn url(&self) -> Result<Url, String> {
        let url = self.url.clone();
        url.map_err(|why| format!("{} {why}", self.variable))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.url.as_ref().map(|url| url.origin());
        let origin = origin.map_or_else(|_| "?".to_owned(), |origin| origin.ascii_serialization());
        write!(f, "the proxy {origin} ({})", self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A destination as `NO_PROXY` names it.
struct Host {
    name: String,
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Host {
    fn of(url: &Url) -> Option<Self> {
        let name = url.host_str()?.trim_matches(['[', ']']);
        Some(Self {
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            address: name
                .parse()
                .ok()
                .map(|address: IpAddr| address.to_canonical()),
            port: url.port_or_known_default(),
        })
    }

    /// Whether it is this machine or its link: no proxy could reach it, and a token would only leak there.
    fn is_local(&self) -> bool {
        match self.address {
            Some(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            Some(IpAddr::V6(ip)) => {
                ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()
            }
            None => self.name == "localhost" || self.name.ends_with(".localhost"),
        }
    }
}

impl Direct {
    /// `*`, `name`, `.name`, `*.name`, an address, a network, each with an optional port.
    fn parse(entry: &str) -> Self {
        if entry == "*" {
            return Direct::Everything;
        }
        let (host, port) = match entry.rsplit_once(':') {
            // An IPv6 address has colons of its own, unless it is in brackets.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().ok())
            }
            _ => (entry, None),
        };
        let host = host.trim_matches(['[', ']']);
        let network = host.parse::<IpNet>().ok();
        match network.or_else(|| Some(host.parse::<IpAddr>().ok()?.into())) {
            Some(network) => Direct::Network(network, port),
            None => {
                let name = host.trim_start_matches("*.").trim_matches('.');
                Direct::Domain(name.to_ascii_lowercase(), port)
            }
        }
    }

    fn has(&self, host: &Host) -> bool {
        let of_port = |port: &Option<u16>| port.is_none() || *port == host.port;
        match self {
            Direct::Everything => true,
            Direct::Network(network, port) => {
                of_port(port) && host.address.is_some_and(|ip| network.contains(&ip))
            }
            Direct::Domain(domain, port) => {
                let below = host.name.strip_suffix(domain.as_str());
                let is_domain = below.is_some_and(|below| below.is_empty() || below.ends_with('.'));
                of_port(port) && !domain.is_empty() && is_domain
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let find = |name: &str| {
            let (_, text) = variables.iter().find(|(variable, _)| *variable == name)?;
            Some((*text).to_owned())
        };
        Proxies::from_variables(&find)
    }

    fn found(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = proxies.find(&Url::parse(url).unwrap())?;
        Some(proxy.to_string())
    }

    #[test]
    fn a_proxy_is_for_its_scheme_and_all_proxy_for_both() {
        let both = proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "u:p@h:2")]);
        assert_eq!(
            found(&both, "https://vault.corp").as_deref(),
            Some("the proxy http://s:1 (HTTPS_PROXY)")
        );
        assert_eq!(
            found(&both, "http://vault.corp").as_deref(),
            Some("the proxy http://h:2 (http_proxy)")
        );
        let url = both.find(&Url::parse("http://v").unwrap()).unwrap().url();
        assert_eq!(url.unwrap().as_str(), "http://u:p@h:2/");
        assert!(!format!("{both:?}").contains("p@"));
        let all = proxies(&[("HTTPS_PROXY", ""), ("ALL_PROXY", "http://a:1")]);
        for url in ["https://vault.corp", "http://vault.corp"] {
            assert!(found(&all, url).unwrap().contains("ALL_PROXY"), "{url}");
        }
        let cgi = [("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://evil")];
        assert_eq!(found(&proxies(&cgi), "http://vault.corp"), None);
        assert_eq!(found(&proxies(&[]), "http://vault.corp"), None);
        for wrong in ["socks5://s:1", "http://", "http://a b"] {
            let wrong = proxies(&[("HTTPS_PROXY", wrong)]);
            let wrong = wrong.find(&Url::parse("https://v").unwrap()).unwrap();
            assert!(wrong.url().unwrap_err().starts_with("HTTPS_PROXY "));
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_are_asked_directly() {
        let proxies = proxies(&[("HTTP_PROXY", "http://h:1"), ("HTTPS_PROXY", "http://h:1")]);
        for direct in [
            "http://127.0.0.1:8200",
            "https://127.8.9.1",
            "http://localhost:1",
            "http://LOCALHOST.",
            "https://a.localhost",
            "http://[::1]:8200",
            "http://[::ffff:127.0.0.1]",
            "http://169.254.169.254/latest",
            "http://[fe80::1]",
            "http://0.0.0.0",
        ] {
            assert_eq!(found(&proxies, direct), None, "{direct}");
        }
        for proxied in [
            "http://10.0.0.1",
            "http://localhost.corp",
            "http://[fd00::1]",
        ] {
            assert!(found(&proxies, proxied).is_some(), "{proxied}");
        }
    }

    #[test]
    fn no_proxy_has_names_suffixes_addresses_networks_and_ports() {
        for (no_proxy, direct, proxied) in [
            ("*", "https://a.b,http://10.0.0.1", ""),
            (
                "corp.com",
                "https://corp.com,https://a.corp.com,https://A.Corp.COM.",
                "https://xcorp.com,https://corp.com.org",
            ),
            (
                ".corp.com",
                "https://corp.com,https://a.b.corp.com",
                "https://xcorp.com",
            ),
            ("*.corp.com", "https://a.corp.com", "https://acorp.com"),
            ("10.1.2.3", "http://10.1.2.3:8200", "http://10.1.2.4"),
            (
                "10.0.0.0/8",
                "http://10.200.0.1",
                "http://11.0.0.1,http://ten.corp",
            ),
            (
                "fd00::/8,[fd01::1]:8200",
                "http://[fd00::5],http://[fd01::1]:8200",
                "http://[fe00::1]",
            ),
            (
                "[2001:db8::1]:8200",
                "https://[2001:db8::1]:8200",
                "https://[2001:db8::1]",
            ),
            (
                "2001:db8::1",
                "https://[2001:db8::1]:8200",
                "https://[2001:db8::2]",
            ),
            (
                "corp.com:8200",
                "https://a.corp.com:8200",
                "https://corp.com",
            ),
            ("corp.com:443", "https://corp.com", "https://corp.com:8200"),
            ("10.0.0.1:8200", "http://10.0.0.1:8200", "http://10.0.0.1"),
            (
                "a.com, b.com  c.com",
                "https://a.com,https://b.com,https://c.com",
                "https://d.com",
            ),
            (",, ,", "", "https://a.com"),
            (".", "", "https://a.com"),
        ] {
            let proxies = proxies(&[("ALL_PROXY", "http://h:1"), ("NO_PROXY", no_proxy)]);
            for url in direct.split(',').filter(|url| !url.is_empty()) {
                assert_eq!(found(&proxies, url), None, "{no_proxy} and {url}");
            }
            for url in proxied.split(',').filter(|url| !url.is_empty()) {
                assert!(found(&proxies, url).is_some(), "{no_proxy} and {url}");
            }
        }
        let none = proxies(&[("HTTPS_PROXY", "http://h:1"), ("no_proxy", "corp.com")]);
        assert_eq!(found(&none, "https://corp.com"), None);
        assert!(
            found(
                &Proxies::only("http://p:1", "VAULT_PROXY_ADDR"),
                "http://[::1]"
            )
            .is_some()
        );
    }
}
