//! Who signs requests, and how each service wants it: all credentials pass through here.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
#[cfg(feature = "azure")]
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{CredentialProvider, HttpRequest, HttpRequestBody};
#[cfg(feature = "gcp")]
use object_store::gcp::GcpCredentialProvider;
use tokio::runtime::Handle;

use super::attempt::told;
use super::body::Body;

/// Signs what one client sends.
pub(super) struct Signer {
    pub(super) who: Who,
    /// Nothing is signed; only the path is that of an object store.
    pub(super) anonymous: bool,
    /// For what the machine may know.
    pub(super) patience: Duration,
    pub(super) runtime: Handle,
}

/// Where credentials come from, a service each.
pub(super) enum Who {
    /// AWS signature 4, the hash of a body in it where no TLS protects it.
    Amazon { credentials: AwsCredentialProvider, region: String, requester_pays: bool },
    /// A token of OAuth.
    #[cfg(feature = "gcp")]
    Google { credentials: GcpCredentialProvider },
    /// Shared key, shared access signature or token.
    #[cfg(feature = "azure")]
    Azure { credentials: AzureCredentialProvider, account: String },
}

impl std::fmt::Debug for Signer {
    /// Without credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.who {
            Who::Amazon { region, .. } => write!(f, "Signer({region})"),
            #[cfg(feature = "gcp")]
            Who::Google { .. } => write!(f, "Signer(Google)"),
            #[cfg(feature = "azure")]
            Who::Azure { account, .. } => write!(f, "Signer({account})"),
        }
    }
}

/// Method, URL and headers of what is to be signed.
pub(super) struct Plain<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: &'a Body<'a>,
    /// It goes through TLS.
    pub(super) secure: bool,
}

impl Signer {
    /// The request with all that authorizes it, in headers or in its URL.
    pub(super) fn signed(&self, plain: &Plain<'_>) -> io::Result<HttpRequest> {
        let wrong = |what: &dyn std::fmt::Display| {
            io::Error::new(ErrorKind::InvalidInput, what.to_string())
        };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = plain.url.parse().map_err(|e| wrong(&e))?;
        *request.method_mut() = plain.method.parse().map_err(|e| wrong(&e))?;
        for (name, value) in plain.headers {
            let value = value.parse().map_err(|e| wrong(&e))?;
            request.headers_mut().insert(*name, value);
        }
        match &self.who {
            Who::Amazon { .. } if self.anonymous => {}
            Who::Amazon { credentials, region, requester_pays } => {
                // TLS protects a body by itself; where there is none, its hash is part of the signature.
                let unsigned = plain.secure && plain.method == "PUT";
                let hash = if unsigned { None } else { plain.body.sha256()? };
                AwsAuthorizer::new(&*self.ask(credentials)?, "s3", region)
                    .with_sign_payload(!unsigned)
                    .with_request_payer(*requester_pays)
                    .authorize(&mut request, hash.as_ref().map(AsRef::as_ref));
            }
            #[cfg(feature = "gcp")]
            Who::Google { .. } if self.anonymous => {}
            #[cfg(feature = "gcp")]
            Who::Google { credentials } => {
                let credential = self.ask(credentials)?;
                if !credential.bearer.is_empty() {
                    let value = format!("Bearer {}", credential.bearer).parse();
                    let value = value.map_err(|_| wrong(&"the token holds what no header may"))?;
                    request.headers_mut().insert("authorization", value);
                }
            }
            #[cfg(feature = "azure")]
            Who::Azure { .. } if self.anonymous => {
                let version = "2023-11-03".parse().map_err(|e| wrong(&e))?;
                request.headers_mut().insert("x-ms-version", version);
            }
            #[cfg(feature = "azure")]
            Who::Azure { credentials, account } => {
                AzureAuthorizer::new(&*self.ask(credentials)?, account).authorize(&mut request);
            }
        }
        Ok(request)
    }

    /// Where no variable says them, credentials are asked of the machine, which may know none.
    fn ask<C: std::fmt::Debug + Send + Sync>(
        &self,
        credentials: &Arc<dyn CredentialProvider<Credential = C>>,
    ) -> io::Result<Arc<C>> {
        let asked =
            async { tokio::time::timeout(self.patience, credentials.get_credential()).await };
        let denied = |what: String| io::Error::new(ErrorKind::PermissionDenied, what);
        let credential = self.runtime.block_on(asked);
        let credential = credential.map_err(|_| denied("no credentials in time".into()))?;
        credential.map_err(|e| denied(told(&e.to_string())))
    }
}
