//! Provides a simulator and a client with a token.

use std::time::Duration;

use lifecycle_azure::simulator::{
    AzureSimulator, CLIENT, CLIENT_SECRET, SUBSCRIPTION, SimulatorOptions, TENANT,
};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

pub(crate) const LOCATION: &str = "westeurope";
pub(crate) const GROUP: &str = "group";

pub(crate) struct Azure {
    pub(crate) simulator: AzureSimulator,
    pub(crate) client: reqwest::Client,
    token: String,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the error code from Azure's response.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status.as_u16(), self.code()),
            (status, code),
            "{}",
            self.body
        );
        self
    }
}

/// Returns a client that trusts the simulator's HTTPS endpoint.
pub(crate) fn client(simulator: &AzureSimulator) -> reqwest::Client {
    // The call fails if another test in this process has already installed a provider. Ignore the
    // error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = simulator.authority_pem();
    reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(authority.as_bytes()).unwrap())
        .build()
        .unwrap()
}

pub(crate) async fn reply(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap()
    };
    Reply {
        status,
        headers,
        body,
    }
}

/// Returns a request for a token for the default client.
pub(crate) fn token_request(client: &reqwest::Client, endpoint: &str) -> RequestBuilder {
    client
        .post(format!("{endpoint}/{TENANT}/oauth2/v2.0/token"))
        .form(&[
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", CLIENT_SECRET),
            ("scope", "https://management.azure.com/.default"),
        ])
}

impl Azure {
    pub(crate) async fn start() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    pub(crate) async fn with(options: SimulatorOptions) -> Self {
        Self::of(AzureSimulator::start(options).await.unwrap()).await
    }

    pub(crate) async fn of(simulator: AzureSimulator) -> Self {
        let client = client(&simulator);
        let answer = reply(token_request(&client, &simulator.endpoint()))
            .await
            .is(200);
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        simulator.requests().clear();
        Self {
            simulator,
            client,
            token,
        }
    }

    /// Returns a request that contains the token. `path` is relative to the subscription, or a
    /// complete URL.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            let mark = if path.contains('?') { '&' } else { '?' };
            let endpoint = self.simulator.endpoint();
            format!("{endpoint}/subscriptions/{SUBSCRIPTION}{path}{mark}api-version=2024-07-01")
        };
        self.client.request(method, url).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        reply(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str) -> Reply {
        reply(self.request(Method::POST, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        reply(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        reply(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        reply(self.request(Method::PATCH, path).json(body)).await
    }

    /// Polls an operation until it ends. Returns the operation's last status.
    pub(crate) async fn end(&self, begun: &Reply) -> Value {
        let url = begun.header("azure-asyncoperation");
        assert!(!url.is_empty(), "{begun:?}");
        loop {
            let status = self.get(url).await.is(200).body;
            if status["status"] != "InProgress" {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[track_caller]
    pub(crate) fn succeeded(status: &Value) {
        assert_eq!(status["status"], "Succeeded", "{status}");
    }

    /// Creates a resource group that contains a network with two subnets.
    pub(crate) async fn prepare(&self) {
        self.put(
            &format!("/resourceGroups/{GROUP}"),
            &json!({"location": LOCATION}),
        )
        .await
        .is(201);
        let body = json!({
            "location": LOCATION,
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
                "subnets": [
                    {"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}},
                    {"name": "small", "properties": {"addressPrefix": "10.0.1.0/29"}},
                ],
            },
        });
        let network = self
            .put(&network("virtualNetworks/net"), &body)
            .await
            .is(201);
        Self::succeeded(&self.end(&network).await);
    }

    /// Creates a NIC in a subnet.
    pub(crate) async fn nic(&self, name: &str, subnet: &str) -> Reply {
        let configuration =
            json!({"name": "first", "properties": {"subnet": {"id": subnet_id(subnet)}}});
        let body = json!({
            "location": LOCATION,
            "properties": {"ipConfigurations": [configuration]},
        });
        self.put(&network(&format!("networkInterfaces/{name}")), &body)
            .await
    }

    /// Returns the status codes from a VM's instance view.
    pub(crate) async fn codes(&self, vm: &str) -> Vec<String> {
        let view = self
            .get(&self::vm(&format!("{vm}/instanceView")))
            .await
            .is(200);
        let statuses = view.body["statuses"].as_array().unwrap().iter();
        statuses
            .map(|status| status["code"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Creates a VM together with a NIC and an address, which are deleted with the VM.
    pub(crate) async fn create(&self, name: &str) -> Reply {
        self.put(&vm(name), &inline_vm(name)).await
    }
}

/// Returns the path of a network resource in the group.
pub(crate) fn network(rest: &str) -> String {
    format!("/resourceGroups/{GROUP}/providers/Microsoft.Network/{rest}")
}

/// Returns the path of a VM, or of something below the VM.
pub(crate) fn vm(rest: &str) -> String {
    format!("/resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines/{rest}")
}

pub(crate) fn subnet_id(name: &str) -> String {
    let net = network("virtualNetworks/net");
    format!("/subscriptions/{SUBSCRIPTION}{net}/subnets/{name}")
}

pub(crate) fn nic_id(name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}{}",
        network(&format!("networkInterfaces/{name}"))
    )
}

/// Returns the body of a request that creates a VM with this network profile.
pub(crate) fn vm_body(name: &str, profile: &Value) -> Value {
    json!({
        "location": LOCATION,
        "tags": {"lifecycle.platform": "demo"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {
                "imageReference": {
                    "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest",
                },
                "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"},
            },
            "osProfile": {
                "computerName": name,
                "adminUsername": "azureuser",
                "adminPassword": "never-to-be-seen",
                "customData": "I2Nsb3VkLWNvbmZpZwo=",
                "linuxConfiguration": {
                    "disablePasswordAuthentication": true,
                    "ssh": {"publicKeys": [{
                        "path": "/home/azureuser/.ssh/authorized_keys",
                        "keyData": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk",
                    }]},
                },
            },
            "networkProfile": profile,
        },
    })
}

/// Returns the body of a request that creates a VM with an existing NIC.
pub(crate) fn with_nic(name: &str, nic: &str, option: &str) -> Value {
    let properties = json!({"primary": true, "deleteOption": option});
    let interface = json!({"id": nic_id(nic), "properties": properties});
    vm_body(name, &json!({"networkInterfaces": [interface]}))
}

/// Returns the body of a request that creates a VM together with a NIC and an address.
pub(crate) fn inline_vm(name: &str) -> Value {
    let address = json!({
        "name": "address",
        "sku": {"name": "Standard"},
        "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
    });
    let configuration = json!({
        "name": "first",
        "properties": {"subnet": {"id": subnet_id("default")}, "publicIPAddressConfiguration": address},
    });
    let nic = json!({
        "name": "own",
        "properties": {"primary": true, "deleteOption": "Delete", "ipConfigurations": [configuration]},
    });
    vm_body(
        name,
        &json!({"networkApiVersion": "2020-11-01", "networkInterfaceConfigurations": [nic]}),
    )
}
