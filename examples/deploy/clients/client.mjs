// Calls an API of SAP Concur by way of `concur-auth serve --proxy`. Needs nothing but Node.js.
//
//     node client.mjs /run/concur-auth/auth.sock

import http from "node:http";

const socketPath = process.argv[2] ?? process.env.CONCUR_AUTH_SOCKET ?? "/run/concur-auth/auth.sock";

/** Ends this program with the reason. */
function fail(message, code) {
  console.error(message);
  process.exit(code);
}

/** The status, headers and text of a reply. */
function request(path) {
  return new Promise((resolve, reject) => {
    const sent = http.get({ socketPath, path, timeout: 120_000 }, (reply) => {
      let text = "";
      reply.setEncoding("utf8");
      reply.on("data", (part) => (text += part));
      reply.on("end", () => resolve({ status: reply.statusCode, headers: reply.headers, text }));
      reply.on("error", reject);
    });
    sent.on("timeout", () => sent.destroy(new Error("no reply in 120 s")));
    sent.on("error", reject);
  });
}

/** The JSON of a reply; ends this program where there is none. */
async function get(path) {
  const reply = await request(path).catch((error) =>
    fail(`${socketPath}: ${error.message}; is concur-auth serve running?`, 1),
  );
  if (reply.status === 200) return JSON.parse(reply.text);
  let error = {};
  try {
    error = JSON.parse(reply.text);
  } catch {
    // A reply of a gateway, perhaps.
  }
  const wait = reply.headers["retry-after"];
  const message = error.message ?? `HTTP ${reply.status}`;
  fail(wait ? `${message} (again in ${wait} s)` : message, error.person_needed ? 2 : 1);
}

// The program attaches the token, and repeats the call once after a 401.
const users = await get("/api/profile/identity/v4/Users");
for (const user of users.Resources) console.log(user.userName);

// A token of one's own, for a library that makes its own requests.
const token = await get("/token?min_validity=300");
console.log(`a ${token.token_type} token for ${token.geolocation}, valid until ${token.expires_at}`);
