#!/usr/bin/env node
// Calls an API of SAP Concur through `concur-auth serve --proxy`, and then by itself with a token. Needs no package.
//
//     node client.mjs [SOCKET]      default: $CONCUR_AUTH_SOCKET
//
// Without a socket, over loopback: CONCUR_AUTH_URL=http://127.0.0.1:8099 CONCUR_AUTH_KEY_FILE=FILE node client.mjs
// Exit codes: 0 done, 2 a person must act, 1 any other error.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const USERS = "profile/identity/v4/Users";
const { CONCUR_AUTH_SOCKET, CONCUR_AUTH_URL, CONCUR_AUTH_KEY_FILE } = process.env;
const socketPath = process.argv[2] ?? CONCUR_AUTH_SOCKET;

function fail(message, code = 1) {
  console.error(message);
  process.exit(code);
}

// The JSON of a reply. Follows no redirect, so that the token goes to no other host.
async function get(url, options) {
  const { get } = url.startsWith("https:") ? https : http;
  const [reply, body] = await new Promise((resolve, reject) => {
    const request = get(url, { timeout: 90_000, ...options }, (reply) => {
      let body = "";
      reply.setEncoding("utf8").on("data", (part) => (body += part)).on("error", reject);
      reply.on("end", () => resolve([reply, body]));
    });
    request.on("error", reject).on("timeout", () => request.destroy(new Error("timed out")));
  }).catch((error) => fail(`no answer from ${options.socketPath ?? url}: ${error.message}`));
  let content = {};
  try {
    content = JSON.parse(body);
  } catch {}
  // From concur-auth: there is no token now.
  if (reply.statusCode === 503 && "person_needed" in content) {
    const after = content.person_needed ? "a person must act" : `ask again in ${reply.headers["retry-after"]} s`;
    fail(`no token: ${content.message}; ${after}`, content.person_needed ? 2 : 1);
  }
  if (reply.statusCode !== 200) fail(`${url} answered ${reply.statusCode}: ${body}`);
  return content;
}

const bearer = (token) => ({ headers: { Authorization: `Bearer ${token}` } });

const ask = (path) =>
  socketPath
    ? get(`http://localhost${path}`, { socketPath })
    : get(CONCUR_AUTH_URL + path, bearer(readFileSync(CONCUR_AUTH_KEY_FILE, "utf8").trim()));

function show(how, { Resources }) {
  console.log(`${how}: 200`);
  for (const { id, userName } of Resources) console.log(`  ${id} ${userName}`);
}

show("through the proxy", await ask(`/api/${USERS}`));
const token = await ask("/token");
show("with a token", await get(token.geolocation + USERS, bearer(token.access_token)));
