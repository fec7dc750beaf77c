# googleauth and google-cloud-env, against the server at 169.254.169.254: these releases know no other.
require "googleauth"
require "google/cloud/env"
require "json"
require "net/http"

DOCUMENT = JSON.parse File.read ENV.fetch "GCEMDS_DOCUMENT"
ISSUER = ENV.fetch "GCEMDS_ISSUER"
EMAIL = DOCUMENT["instance"]["serviceAccounts"]["default"]["email"]
SCOPE = "https://www.googleapis.com/auth/cloud-platform".freeze
AUDIENCE = "https://service.example.com".freeze

def want what, got, want
  raise "#{what} is #{got.inspect}, want #{want.inspect}" unless got == want
end

want "on_gce?", Google::Auth::GCECredentials.on_gce?, true

# Access tokens, the way programs get them.
credentials = Google::Auth.get_application_default [SCOPE]
want "the kind of credentials", credentials.class, Google::Auth::GCECredentials
token = credentials.fetch_access_token!
want "token_type", token["token_type"], "Bearer"
want "expires_in > 225", token["expires_in"] > 225, true
answer = Net::HTTP.get_response URI "#{ISSUER}/tokeninfo?access_token=#{token['access_token']}"
want "tokeninfo", answer.code, "200"
want "scope", JSON.parse(answer.body)["scope"], SCOPE

# ID tokens, and its own verifier with the certificates of our issuer. (Its reader of JWK sets makes keys in a way that
# OpenSSL 3 refuses.)
id_token = Google::Auth::GCECredentials.new(target_audience: AUDIENCE).fetch_access_token!["id_token"]
keys = Google::Auth::IDTokens::X509CertHttpKeySource.new "#{ISSUER}/oauth2/v1/certs"
verifier = Google::Auth::IDTokens::Verifier.new key_source: keys, iss: "https://accounts.google.com"
claims = verifier.verify id_token, aud: AUDIENCE
want "email", claims["email"], EMAIL
want "instance_name", claims["google"]["compute_engine"]["instance_name"], DOCUMENT["instance"]["name"]
begin
  verifier.verify id_token, aud: "other"
  raise "the ID token is good for another audience"
rescue Google::Auth::IDTokens::AudienceMismatchError
  # as it should be
end

# The environment.
env = Google::Cloud.env
want "compute_engine?", env.compute_engine?, true
want "project_id", env.project_id, DOCUMENT["project"]["projectId"]
want "numeric_project_id", env.numeric_project_id, DOCUMENT["project"]["numericProjectId"]
want "instance_name", env.instance_name, DOCUMENT["instance"]["name"]
want "instance_description", env.instance_description, DOCUMENT["instance"]["description"]
want "instance_zone", env.instance_zone, DOCUMENT["instance"]["zone"].split("/").last
want "instance_machine_type", env.instance_machine_type, DOCUMENT["instance"]["machineType"].split("/").last
want "instance_tags", env.instance_tags, DOCUMENT["instance"]["tags"]
want "instance_attribute_keys", env.instance_attribute_keys, DOCUMENT["instance"]["attributes"].keys.sort
want "instance_attribute", env.instance_attribute("demo-key"), DOCUMENT["instance"]["attributes"]["demo-key"]
want "an absent attribute", env.instance_attribute("no-such-key"), nil
puts "ok"
