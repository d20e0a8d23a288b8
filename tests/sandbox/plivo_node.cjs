// Calls every imitated operation with Plivo's own Node SDK and prints the results as one JSON object.
// Environment: SANDBOX_URL, SANDBOX_AUTH_ID, SANDBOX_AUTH_TOKEN, and PLIVO_PACKAGE (the folder of the package).
'use strict';

const { SANDBOX_URL, SANDBOX_AUTH_ID, SANDBOX_AUTH_TOKEN, PLIVO_PACKAGE } = process.env;
const plivo = require(PLIVO_PACKAGE);
const axios = require(require.resolve('axios', { paths: [PLIVO_PACKAGE] }));

// The SDK ignores `url` for its voice resources, whose address is built in. An interceptor of the HTTP library
// rewrites that address, so that only the sandbox is called.
axios.defaults.adapter = (config) => {
  const url = config.url.replace('https://api.plivo.com', SANDBOX_URL);
  if (!url.startsWith(`${SANDBOX_URL}/`)) throw new Error(`not the sandbox: ${url}`);
  return axios.getAdapter('http')({ ...config, url });
};

const connect = (authId, authToken) =>
  new plivo.Client(authId, authToken, { url: `${SANDBOX_URL}/v1/Account/${authId}` });

const refusal = (call) =>
  call.then(
    () => 'accepted',
    (error) => [error.status, error.message, Boolean(error.apiID)],
  );

async function subaccounts(client) {
  const created = await client.subaccounts.create('Rés 部門', true);
  const plain = await client.subaccounts.create('plain');
  await client.subaccounts.update(created.authId, 'Renamed');
  const renamed = await client.subaccounts.get(created.authId);
  await client.subaccounts.update(created.authId, 'Renamed', false);
  const disabled = await client.subaccounts.get(created.authId);
  const listed = await client.subaccounts.list();
  const paged = await client.subaccounts.list({ limit: 1, offset: 1 });
  await client.subaccounts.delete(created.authId, true);
  await client.subaccounts.delete(plain.authId);
  return {
    message: created.message,
    tokenLength: created.authToken.length,
    renamed: [renamed.name, renamed.enabled],
    disabled: disabled.enabled,
    listed: listed.map((each) => [each.name, each.enabled]),
    paged: paged.map((each) => each.name),
    left: (await client.subaccounts.list()).length,
    missing: await refusal(client.subaccounts.get(created.authId)),
    nameless: await refusal(client.subaccounts.create('  ')),
  };
}

async function resources(client) {
  const sales = (await client.subaccounts.create('Sales', true)).authId;
  const app = (
    await client.applications.create('app', { answerUrl: 'http://127.0.0.1/answer', subaccount: sales })
  ).appId;
  await client.applications.update(app, { answerUrl: 'http://127.0.0.1/other' });
  const application = await client.applications.get(app);
  const desk = (await client.endpoints.create('desk', 'secret', 'Desk', app)).endpointId;
  await client.endpoints.update(desk, { alias: 'Front' });
  const endpoint = await client.endpoints.get(desk);
  const number = (await client.numbers.search('US', { type: 'tollfree' }))[0].number;
  const bought = await client.numbers.buy(number);
  await client.numbers.update(number, { subaccount: sales });
  const rented = await client.numbers.get(number);
  const counts = [
    (await client.applications.list({ subaccount: sales })).length,
    (await client.endpoints.list()).length,
    (await client.numbers.list({ subaccount: sales })).length,
  ];
  await client.endpoints.delete(desk);
  await client.applications.delete(app);
  await client.numbers.unrent(number);
  return {
    application: [application.subAccount === sales, application.answerUrl],
    endpoint: endpoint.alias,
    bought: bought.status,
    moved: rented.subAccount === sales,
    counts,
  };
}

async function usage(client) {
  const sales = await client.subaccounts.create('Support', true);
  const own = connect(sales.authId, sales.authToken);
  const sent = await own.messages.create({ src: '14155550100', dst: '14155550101', text: 'hello' });
  const called = await own.calls.create('14155550100', '14155550101', 'http://127.0.0.1/answer');
  const refused = await refusal(own.subaccounts.create('x'));
  await client.subaccounts.update(sales.authId, 'Support', false);
  const message = await client.messages.get(sent.messageUuid[0]);
  await client.accounts.update({ name: 'Lucius Fox' });
  const account = await client.accounts.get();
  return {
    called: called.message,
    refused,
    disabled: await refusal(own.messages.create({ src: '14155550100', dst: '14155550101', text: 'hello' })),
    message: [message.messageState, message.units],
    listed: (await client.messages.list({ subaccount: sales.authId })).length,
    account: [account.name, account.cashCredits],
  };
}

async function main() {
  const client = connect(SANDBOX_AUTH_ID, SANDBOX_AUTH_TOKEN);
  const stranger = connect(SANDBOX_AUTH_ID, 'wrong');
  const told = {
    subaccounts: await subaccounts(client),
    resources: await resources(client),
    usage: await usage(client),
    stranger: await refusal(stranger.subaccounts.list()),
  };
  process.stdout.write(`\n${JSON.stringify(told)}`);
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${(error && error.stack) || JSON.stringify(error)}\n`);
    process.exit(1);
  },
);
