package main

// Help is what sluicectl signer --help says below its first line.
func (SignerCmd) Help() string {
	return `These commands run at the tenant, beside its signer, and ask no sluiced: the flags for it do nothing here.
In their order: signer init, once the operator has sent its key; signer guard run, if there is a guard; signer
replica, to need nobody on a bad day; signer revoke, to take it all back. docs/tenant.md is the guide.`
}

// Help is what sluicectl signer init --help says below its first line.
func (SignerInitCmd) Help() string {
	return `For example, with a guard and systemd:

  sluicectl signer init --tenant acme --operator age1... --dir ~/.lnd-signer --guard ~/.lnd-guard \
    --address signer.example.com:10029 --form systemd --out acme.bundle

It writes the signer's configuration, then waits: start the signer in another terminal, and make its wallet, as it
says. Run it again as often as you like: what is right stays.`
}

// Help is what sluicectl tenant add --help says below its first line.
func (TenantAddCmd) Help() string {
	return `For example, after the tenant has sent the bundle that sluicectl signer init wrote for the key of sluicectl tenant key:

  sluicectl tenant add acme acme.bundle --check --dir /var/lib/lnd-acme
  sluicectl tenant add acme acme.bundle --dir /var/lib/lnd-acme --backend backend.conf --gateway KEY@HOST:9735 \
    --form systemd

The first one asks nine checks and changes nothing; a check that fails has an exit code from 21 to 29, and says what the
tenant does next. The second one then writes the node's configuration and waits: start the node in another terminal, as
it says. Run it again as often as you like: what is right stays. docs/tenant.md is the guide.`
}
