//! An LDK Node with one LSP, driven line by line: a JSON object on standard
//! input asks, one of the same `id` on standard output answers (`ok` or
//! `error`), and what happens in between is told there as `event`. The end of the input ends it,
//! so that a test which dies leaves nothing behind.

use std::io::{self, BufRead, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::bitcoin::Network;
use ldk_node::config::{AnchorChannelsConfig, Config};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::logger::LogLevel;
use ldk_node::liquidity::LSPS1OrderStatus;
use ldk_node::lightning_liquidity::lsps1::msgs::LSPS1OrderId;
use ldk_node::payment::{PaymentDirection, PaymentKind};
use ldk_node::{Builder, Event, Node};
use serde_json::{json, Value};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, rpc_host, rpc_port, lsp_key, lsp_address] = args.as_slice() else {
        eprintln!("usage: sluice-ldk DIR RPC-HOST RPC-PORT LSP-KEY LSP-ADDRESS");
        std::process::exit(2);
    };
    let lsp = PublicKey::from_str(lsp_key).expect("the LSP's node key");
    let address = SocketAddress::from_str(lsp_address).expect("the LSP's address");
    let node = start(dir, rpc_host, rpc_port.parse().expect("a port"), lsp, address.clone());
    say(json!({"event": "started", "node_id": node.node_id().to_string()}));

    let told = Arc::clone(&node);
    thread::spawn(move || loop {
        say(describe(told.wait_next_event()));
        told.event_handled().expect("an event is handled");
    });
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let request: Value = serde_json::from_str(&line).unwrap_or_default();
        say(match serve(&node, lsp, &address, &request) {
            Ok(result) => json!({"id": request["id"], "ok": result}),
            Err(e) => json!({"id": request["id"], "error": e}),
        });
    }
    let _ = node.stop();
    std::process::exit(0);
}

fn start(dir: &str, host: &str, port: u16, lsp: PublicKey, address: SocketAddress) -> Arc<Node> {
    // The wallet has no coins, as a new user has none: it relies on its LSP to
    // have a force-closed channel confirmed.
    let anchors = AnchorChannelsConfig { trusted_peers_no_reserve: vec![lsp], ..Default::default() };
    let mut builder =
        Builder::from_config(Config { anchor_channels_config: Some(anchors), ..Default::default() });
    builder
        .set_network(Network::Regtest)
        .set_storage_dir_path(dir.to_string())
        .set_filesystem_logger(Some(format!("{dir}/ldk.log")), Some(LogLevel::Trace))
        .set_chain_source_bitcoind_rpc(host.to_string(), port, "user".into(), "password".into())
        .set_liquidity_source_lsps1(lsp, address.clone(), None)
        .set_liquidity_source_lsps2(lsp, address, None);
    let node = Arc::new(builder.build().expect("the node is built"));
    node.start().expect("the node starts");
    node
}

fn say(line: Value) {
    let mut out = io::stdout().lock();
    // Nobody to tell: the test is gone, and the end of the input follows.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn number(request: &Value, name: &str) -> Result<u64, String> {
    request[name].as_u64().ok_or_else(|| format!("{name} is no number"))
}

fn text<'a>(request: &'a Value, name: &str) -> Result<&'a str, String> {
    request[name].as_str().ok_or_else(|| format!("{name} is no string"))
}

fn serve(node: &Node, lsp: PublicKey, address: &SocketAddress, request: &Value) -> Result<Value, String> {
    let failed = |e: ldk_node::NodeError| e.to_string();
    let description = Bolt11InvoiceDescription::Direct(Description::new("sluice".into()).expect("short"));
    match text(request, "do")? {
        "receive" => {
            let limit = number(request, "max_fee_msat")?;
            let invoice = node.bolt11_payment().receive_via_jit_channel(
                number(request, "amount_msat")?, &description, 600, Some(limit),
            );
            invoice.map(|i| json!(i.to_string())).map_err(failed)
        }
        "receive_any" => {
            let limit = number(request, "max_fee_ppm_msat")?;
            let invoice = node.bolt11_payment().receive_variable_amount_via_jit_channel(
                &description, 600, Some(limit),
            );
            invoice.map(|i| json!(i.to_string())).map_err(failed)
        }
        "pay" => {
            let invoice = Bolt11Invoice::from_str(text(request, "invoice")?).map_err(|e| format!("{e:?}"))?;
            node.bolt11_payment().send(&invoice, None).map(|id| json!(hex(&id.0))).map_err(failed)
        }
        // LSPS1. LDK Node names the refund address itself.
        "order" => {
            let order = node.lsps1_liquidity().request_channel(
                number(request, "lsp_balance_sat")?, number(request, "client_balance_sat")?,
                number(request, "expiry_blocks")? as u32, false,
            );
            order.map(|o| describe_order(&o)).map_err(failed)
        }
        "order_status" => {
            let id = LSPS1OrderId(text(request, "order_id")?.into());
            node.lsps1_liquidity().check_order_status(id).map(|o| describe_order(&o)).map_err(failed)
        }
        "connect" => node.connect(lsp, address.clone(), true).map(|()| json!({})).map_err(failed),
        "disconnect" => node.disconnect(lsp).map(|()| json!({})).map_err(failed),
        "payments" => Ok(payments(node)),
        "channels" => Ok(channels(node)),
        unknown => Err(format!("there is no {unknown}")),
    }
}

fn describe_order(o: &LSPS1OrderStatus) -> Value {
    let bolt11 = o.payment_options.bolt11.as_ref();
    let onchain = o.payment_options.onchain.as_ref();
    json!({
        "order_id": o.order_id.0,
        "invoice": bolt11.map(|b| b.invoice.to_string()),
        "fee_sat": bolt11.map(|b| b.fee_total_sat), "total_sat": bolt11.map(|b| b.order_total_sat),
        "bolt11": bolt11.map(|b| format!("{:?}", b.state)),
        "address": onchain.map(|c| c.address.to_string()), "chain_total_sat": onchain.map(|c| c.order_total_sat),
        "onchain": onchain.map(|c| format!("{:?}", c.state)),
        "funding": o.channel_state.as_ref().map(|c| c.funding_outpoint.to_string()),
    })
}

/// What the wallet has in its books of what it received.
fn payments(node: &Node) -> Value {
    let received = node.list_payments_with_filter(|p| p.direction == PaymentDirection::Inbound);
    let rows = received.into_iter().map(|p| {
        let skimmed = match p.kind {
            PaymentKind::Bolt11Jit { counterparty_skimmed_fee_msat, .. } => counterparty_skimmed_fee_msat,
            _ => None,
        };
        json!({
            "hash": hex(&p.id.0), "amount_msat": p.amount_msat, "skimmed_msat": skimmed,
            "status": format!("{:?}", p.status),
        })
    });
    rows.collect()
}

fn channels(node: &Node) -> Value {
    let rows = node.list_channels().into_iter().map(|c| {
        json!({
            "peer": c.counterparty_node_id.to_string(), "funding": c.funding_txo.map(|o| o.to_string()),
            "capacity_sat": c.channel_value_sats, "usable": c.is_usable, "announced": c.is_announced,
            "outbound_msat": c.outbound_capacity_msat, "inbound_msat": c.inbound_capacity_msat,
            "confirmations": c.confirmations,
        })
    });
    rows.collect()
}

fn describe(event: Event) -> Value {
    match event {
        Event::PaymentReceived { payment_hash, amount_msat, .. } => {
            json!({"event": "payment_received", "hash": hex(&payment_hash.0), "amount_msat": amount_msat})
        }
        Event::PaymentSuccessful { payment_hash, fee_paid_msat, .. } => {
            json!({"event": "payment_successful", "hash": hex(&payment_hash.0), "fee_msat": fee_paid_msat})
        }
        Event::PaymentFailed { reason, .. } => json!({"event": "payment_failed", "reason": format!("{reason:?}")}),
        Event::ChannelReady { .. } => json!({"event": "channel_ready"}),
        Event::ChannelClosed { reason, .. } => json!({"event": "channel_closed", "reason": format!("{reason:?}")}),
        other => json!({"event": "other", "what": format!("{other:?}")}),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
