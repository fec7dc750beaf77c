// google-auth-library with Google's hosts built in, behind the proxy of a fake Google.
import assert from 'node:assert/strict';
import {createVerify} from 'node:crypto';
import {join} from 'node:path';
import {test} from 'node:test';
import {GoogleAuth, Impersonated, OAuth2Client} from 'google-auth-library';

const file = name => join(process.env.GCEMDS_E2E_FILES, name);
const scopes = ['https://www.googleapis.com/auth/cloud-platform', 'https://www.googleapis.com/auth/userinfo.email'];
const robot = 'robot@my-project.iam.gserviceaccount.com';
const target = 'target@my-project.iam.gserviceaccount.com';
const google = new OAuth2Client();

const owner = async token => (await google.getTokenInfo(token)).email;

// act is robot as target.
async function act() {
  const sourceClient = await new GoogleAuth({keyFile: file('hard-sa.json'), scopes}).getClient();
  return new Impersonated({sourceClient, targetPrincipal: target, targetScopes: scopes, lifetime: 3600});
}

test('key', async () => {
  assert.equal(await owner(await new GoogleAuth({keyFile: file('hard-sa.json'), scopes}).getAccessToken()), robot);
});

test('federation with impersonation', async () => {
  assert.equal(await owner(await new GoogleAuth({keyFile: file('hard-file.json'), scopes}).getAccessToken()), target);
});

test('login of gcloud', async () => {
  assert.equal(await owner(await new GoogleAuth({keyFile: file('adc.json'), scopes}).getAccessToken()), 'ann@example.com');
});

test('impersonation', async () => {
  const {token} = await (await act()).getAccessToken();
  assert.equal(await owner(token), target);
});

test('ID tokens verify with what the library takes for certificates of Google', async () => {
  const audience = 'https://service.example.com';
  const key = await new GoogleAuth({keyFile: file('hard-sa.json')}).getIdTokenClient(audience);
  const idToken = await key.idTokenProvider.fetchIdToken(audience);
  assert.equal((await google.verifyIdToken({idToken, audience})).getPayload().email, robot);
  const impersonated = await (await act()).fetchIdToken(audience, {includeEmail: true});
  assert.equal((await google.verifyIdToken({idToken: impersonated, audience})).getPayload().email, target);
});

test('what signBlob signs verifies with the certificates of the account', async () => {
  const {keyId, signedBlob} = await (await act()).sign('a string to sign');
  const {data} = await google.transporter.request({url: `https://www.googleapis.com/service_accounts/v1/metadata/x509/${target}`});
  assert.ok(createVerify('RSA-SHA256').update('a string to sign').verify(data[keyId], signedBlob, 'base64'));
});
