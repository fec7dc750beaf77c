// google-auth-library, against the server that the environment names, or the one at 169.254.169.254.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import {Compute, GoogleAuth, OAuth2Client} from 'google-auth-library';

const doc = JSON.parse(readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8'));
const email = doc.instance.serviceAccounts.default.email;
const scopes = ['https://www.googleapis.com/auth/cloud-platform'];
const issuer = process.env.GCEMDS_ISSUER;

// verifier is a client that believes our issuer where it would believe Google.
const verifier = new OAuth2Client({
  endpoints: {
    oauth2FederatedSignonPemCertsUrl: `${issuer}/oauth2/v1/certs`,
    oauth2FederatedSignonJwkCertsUrl: `${issuer}/oauth2/v3/certs`,
    tokenInfoUrl: `${issuer}/tokeninfo`,
  },
});

// subject is the number of the account, as the ID token has it.
async function subject() {
  const idToken = await new Compute().fetchIdToken('subject');
  return (await verifier.verifyIdToken({idToken, audience: 'subject'})).getPayload().sub;
}

test('default credentials are those of the instance', async () => {
  const auth = new GoogleAuth({scopes});
  const client = await auth.getClient();
  assert.ok(client instanceof Compute, `got a ${client.constructor.name}`);
  assert.equal(await auth.getProjectId(), doc.project.projectId);
  assert.equal(await auth.getUniverseDomain(), 'googleapis.com');
  const {client_email} = await auth.getCredentials();
  assert.equal(client_email, email);
});

test('access token', async () => {
  const token = await new GoogleAuth({scopes}).getAccessToken();
  const info = await verifier.getTokenInfo(token);
  assert.deepEqual(info.scopes, scopes);
  assert.equal(info.azp, await subject());
});

test('access token of a named account', async () => {
  const compute = new Compute({serviceAccountEmail: email, scopes});
  const {token} = await compute.getAccessToken();
  assert.equal((await verifier.getTokenInfo(token)).azp, await subject());
  assert.ok(compute.credentials.expiry_date > Date.now() + 225_000, 'the token ends too soon');
});

test('token of an account that is not there', async () => {
  await assert.rejects(new Compute({serviceAccountEmail: 'nobody@example.com'}).getAccessToken(), /404|Not Found/);
});

for (const audience of ['https://service.example.com', 'some-client-id.apps.example.com']) {
  test(`ID token for ${audience}`, async () => {
    const idToken = await new Compute().fetchIdToken(audience);
    const payload = (await verifier.verifyIdToken({idToken, audience})).getPayload();
    assert.equal(payload.iss, 'https://accounts.google.com');
    assert.equal(payload.email, email);
    assert.equal(payload.google.compute_engine.instance_name, doc.instance.name);
    await assert.rejects(verifier.verifyIdToken({idToken, audience: 'somebody-else'}), /audience/);
  });
}

test('getIdTokenClient', async () => {
  const audience = 'https://service.example.com';
  const client = await new GoogleAuth().getIdTokenClient(audience);
  const headers = await client.getRequestHeaders();
  const idToken = headers.get('authorization').replace('Bearer ', '');
  const ticket = await verifier.verifyIdToken({idToken, audience});
  assert.equal(ticket.getPayload().email, email);
});
