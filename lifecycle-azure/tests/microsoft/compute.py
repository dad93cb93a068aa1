"""Runs a VM's whole lifecycle in the simulator with Microsoft's own clients.

    compute.py ENDPOINT AUTHORITY.pem TENANT CLIENT SECRET SUBSCRIPTION

Fails at the first response that differs from Azure's.
"""

import base64
import sys

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

endpoint, authority, tenant, client, secret, subscription = sys.argv[1:7]
LOCATION = "westeurope"
GROUP = "microsoft"
SIZE = "Standard_D2s_v5"
IMAGE = {"publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest"}

credential = ClientSecretCredential(
    tenant,
    client,
    secret,
    authority=endpoint,
    disable_instance_discovery=True,
    connection_verify=authority,
)
common = {
    "base_url": endpoint,
    "credential_scopes": ["https://management.azure.com/.default"],
    "connection_verify": authority,
    # By default, the clients poll only every 30 seconds.
    "polling_interval": 0,
}
resources = ResourceManagementClient(credential, subscription, **common)
network = NetworkManagementClient(credential, subscription, **common)
compute = ComputeManagementClient(credential, subscription, **common)


def step(name):
    print(name, flush=True)


def refused(code, status, call):
    """Checks that the call fails with this Azure error."""
    try:
        result = call()
        if hasattr(result, "result"):
            result = result.result()
    except HttpResponseError as error:
        found = error.error.code if error.error else None
        assert (found, error.status_code) == (code, status), (found, error.status_code, str(error))
        return error
    raise AssertionError(f"expected {code}, but the call returned {result}")


def codes(name):
    return [one.code for one in compute.virtual_machines.instance_view(GROUP, name).statuses]


def os_profile(name):
    return {
        "computerName": name,
        "adminUsername": "azureuser",
        "customData": base64.b64encode(b"#cloud-config\n").decode(),
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "ssh": {
                "publicKeys": [
                    {
                        "path": "/home/azureuser/.ssh/authorized_keys",
                        "keyData": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk",
                    }
                ]
            },
        },
    }


def machine(name, profile, size=SIZE):
    return {
        "location": LOCATION,
        "tags": {"made-by": "microsoft"},
        "properties": {
            "hardwareProfile": {"vmSize": size},
            "storageProfile": {
                "imageReference": IMAGE,
                "osDisk": {
                    "createOption": "FromImage",
                    "deleteOption": "Delete",
                    "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
                },
            },
            "osProfile": os_profile(name),
            "networkProfile": profile,
        },
    }


step("list sizes, quotas, and images")
assert LOCATION in {sku.locations[0] for sku in compute.resource_skus.list()}
skus = compute.resource_skus.list(filter=f"location eq '{LOCATION}'")
found = next(sku for sku in skus if sku.name == SIZE)
assert found.family == "standardDSv5Family" and not found.restrictions, found
assert {one.name: one.value for one in found.capabilities}["vCPUs"] == "2"
usages = {one.name.value: one for one in compute.usage.list(LOCATION)}
assert usages["standardDSv5Family"].current_value == 0, usages
versions = compute.virtual_machine_images.list(LOCATION, "Debian", "debian-12", "12-gen2")
assert versions[-1].name == "0.20250210.2019", versions
image = compute.virtual_machine_images.get(
    LOCATION, "Debian", "debian-12", "12-gen2", versions[-1].name
)
assert image.architecture == "x64", image

step("create a resource group")
assert not resources.resource_groups.check_existence(GROUP)
group = resources.resource_groups.create_or_update(GROUP, {"location": "West Europe"})
assert (group.location, group.properties.provisioning_state) == (LOCATION, "Succeeded"), group
assert resources.resource_groups.check_existence(GROUP.upper())
assert resources.providers.get("Microsoft.Compute").registration_state == "Registered"
assert [one.name for one in resources.resource_groups.list()] == [GROUP]

step("create a security group, a network, an address, and a NIC")
security = network.network_security_groups.begin_create_or_update(
    GROUP,
    "security",
    {
        "location": LOCATION,
        "properties": {
            "securityRules": [
                {
                    "name": "ssh",
                    "properties": {
                        "access": "Allow",
                        "direction": "Inbound",
                        "priority": 100,
                        "protocol": "Tcp",
                        "sourceAddressPrefix": "*",
                        "sourcePortRange": "*",
                        "destinationAddressPrefix": "*",
                        "destinationPortRange": "22",
                    },
                }
            ]
        },
    },
).result()
assert security.provisioning_state == "Succeeded", security
assert security.security_rules[0].destination_port_range == "22", security
assert len(security.default_security_rules) == 6, security
net = network.virtual_networks.begin_create_or_update(
    GROUP,
    "net",
    {
        "location": LOCATION,
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [
                {
                    "name": "default",
                    "properties": {
                        "addressPrefix": "10.0.0.0/24",
                        "networkSecurityGroup": {"id": security.id},
                    },
                }
            ],
        },
    },
).result()
assert net.provisioning_state == "Succeeded", net
subnet = network.subnets.begin_create_or_update(
    GROUP, "net", "second", {"properties": {"addressPrefix": "10.0.1.0/24"}}
).result()
assert {one.name for one in network.subnets.list(GROUP, "net")} == {"default", "second"}
address = network.public_ip_addresses.begin_create_or_update(
    GROUP,
    "address",
    {
        "location": LOCATION,
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static", "deleteOption": "Delete"},
    },
).result()
assert address.ip_address, address
nic = network.network_interfaces.begin_create_or_update(
    GROUP,
    "nic",
    {
        "location": LOCATION,
        "properties": {
            "ipConfigurations": [
                {
                    "name": "first",
                    "properties": {
                        "subnet": {"id": net.subnets[0].id},
                        "publicIPAddress": {"id": address.id},
                    },
                }
            ]
        },
    },
).result()
assert nic.ip_configurations[0].private_ip_address == "10.0.0.4", nic

step("create a VM")
existing = {
    "networkInterfaces": [{"id": nic.id, "properties": {"primary": True, "deleteOption": "Delete"}}]
}
only_new = {"match_condition": MatchConditions.IfMissing}
poller = compute.virtual_machines.begin_create_or_update(
    GROUP, "vm", machine("vm", existing), **only_new
)
vm = poller.result()
assert (vm.name, vm.provisioning_state) == ("vm", "Succeeded"), vm
assert vm.os_profile.custom_data is None and vm.os_profile.admin_username == "azureuser", vm
assert vm.network_profile.network_interfaces[0].id == nic.id, vm
assert vm.storage_profile.image_reference.exact_version == "0.20250210.2019", vm
assert codes("vm") == ["ProvisioningState/succeeded", "PowerState/running"], codes("vm")
refused(
    "PreconditionFailed",
    412,
    lambda: compute.virtual_machines.begin_create_or_update(
        GROUP, "vm", machine("vm", existing), **only_new
    ),
)
nic = network.network_interfaces.get(GROUP, "nic")
assert nic.virtual_machine.id == vm.id, nic
usages = {one.name.value: one for one in compute.usage.list(LOCATION)}
assert usages["standardDSv5Family"].current_value == 2, usages

step("create a VM together with its NIC and its address")
configured = {
    "networkApiVersion": "2020-11-01",
    "networkInterfaceConfigurations": [
        {
            "name": "inline",
            "properties": {
                "primary": True,
                "deleteOption": "Delete",
                "networkSecurityGroup": {"id": security.id},
                "ipConfigurations": [
                    {
                        "name": "first",
                        "properties": {
                            "subnet": {"id": subnet.id},
                            "publicIPAddressConfiguration": {
                                "name": "address",
                                "sku": {"name": "Standard"},
                                "properties": {
                                    "deleteOption": "Delete",
                                    "publicIPAllocationMethod": "Static",
                                },
                            },
                        },
                    }
                ],
            },
        }
    ],
}
second = compute.virtual_machines.begin_create_or_update(
    GROUP, "second", machine("second", configured)
).result()
inline = second.network_profile.network_interfaces[0].id.split("/")[-1]
inline = network.network_interfaces.get(GROUP, inline)
assert inline.ip_configurations[0].private_ip_address == "10.0.1.4", inline
inline_address = inline.ip_configurations[0].public_ip_address.id.split("/")[-1]
assert network.public_ip_addresses.get(GROUP, inline_address).ip_address

step("list resources")
assert {one.name for one in compute.virtual_machines.list(GROUP)} == {"vm", "second"}
listed = list(compute.virtual_machines.list_all(status_only="true"))
assert all(one.instance_view.statuses for one in listed) and len(listed) == 2, listed
expanded = compute.virtual_machines.get(GROUP, "VM", expand="instanceView")
assert expanded.instance_view.vm_agent.statuses[0].display_status == "Ready", expanded
tagged = resources.resources.list(filter="tagName eq 'made-by' and tagValue eq 'microsoft'")
assert sorted({one.type for one in tagged}) == [
    "Microsoft.Compute/disks",
    "Microsoft.Compute/virtualMachines",
]

step("deallocate, start, restart, and power off a VM")
compute.virtual_machines.begin_deallocate(GROUP, "vm").result()
assert codes("vm")[1] == "PowerState/deallocated"
compute.virtual_machines.begin_start(GROUP, "vm").result()
assert codes("vm")[1] == "PowerState/running"
compute.virtual_machines.begin_restart(GROUP, "vm").result()
assert codes("vm")[1] == "PowerState/running"
compute.virtual_machines.begin_power_off(GROUP, "vm", skip_shutdown=True).result()
assert codes("vm") == ["ProvisioningState/succeeded", "PowerState/stopped"]
refused("OperationNotAllowed", 409, lambda: compute.virtual_machines.begin_restart(GROUP, "vm"))

step("change the tags and the size of a VM")
vm = compute.virtual_machines.begin_update(GROUP, "vm", {"tags": {"a": "b"}}).result()
assert vm.tags == {"a": "b"} and vm.hardware_profile.vm_size == SIZE, vm
bigger = {"properties": {"hardwareProfile": {"vmSize": "Standard_D4s_v5"}}}
vm = compute.virtual_machines.begin_update(GROUP, "vm", bigger).result()
assert vm.tags == {"a": "b"} and vm.hardware_profile.vm_size == "Standard_D4s_v5", vm
other = machine("vm", existing)
other["properties"]["osProfile"]["computerName"] = "other"
refused(
    "PropertyChangeNotAllowed",
    409,
    lambda: compute.virtual_machines.begin_create_or_update(GROUP, "vm", other),
)

step("send requests that Azure rejects")
refused(
    "InvalidParameter",
    400,
    lambda: compute.virtual_machines.begin_create_or_update(
        GROUP, "none", machine("none", configured, "Standard_None")
    ),
)
refused("NicInUse", 400, lambda: network.network_interfaces.begin_delete(GROUP, "nic"))
refused(
    "PublicIPAddressCannotBeDeleted",
    400,
    lambda: network.public_ip_addresses.begin_delete(GROUP, "address"),
)
refused(
    "InUseSubnetCannotBeDeleted", 400, lambda: network.subnets.begin_delete(GROUP, "net", "second")
)
refused(
    "InUseSubnetCannotBeDeleted", 400, lambda: network.virtual_networks.begin_delete(GROUP, "net")
)
refused(
    "InUseNetworkSecurityGroupCannotBeDeleted",
    400,
    lambda: network.network_security_groups.begin_delete(GROUP, "security"),
)

step("delete all resources")
compute.virtual_machines.begin_delete(GROUP, "second").result()
compute.virtual_machines.begin_delete(GROUP, "second").result()
try:
    compute.virtual_machines.get(GROUP, "second")
    raise AssertionError("the VM still exists")
except ResourceNotFoundError as error:
    assert error.error.code == "ResourceNotFound", error
assert [one.name for one in network.network_interfaces.list(GROUP)] == ["nic"]
assert [one.name for one in network.public_ip_addresses.list(GROUP)] == ["address"]
assert len(list(compute.disks.list_by_resource_group(GROUP))) == 1
network.subnets.begin_delete(GROUP, "net", "second").result()
resources.resource_groups.begin_delete(GROUP).result()
assert not resources.resource_groups.check_existence(GROUP)
assert not list(compute.virtual_machines.list_all())
assert not list(resources.resources.list())
step("done")
