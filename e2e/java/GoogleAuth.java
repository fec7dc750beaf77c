import com.google.api.client.json.gson.GsonFactory;
import com.google.api.client.json.webtoken.JsonWebSignature;
import com.google.auth.oauth2.AccessToken;
import com.google.auth.oauth2.ComputeEngineCredentials;
import com.google.auth.oauth2.GoogleCredentials;
import com.google.auth.oauth2.IdTokenCredentials;
import com.google.auth.oauth2.IdTokenProvider;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.PublicKey;
import java.security.cert.CertificateFactory;
import java.util.List;

/** google-auth for Java, against the server that GCE_METADATA_HOST names, or the one at 169.254.169.254. */
public class GoogleAuth {
  static final String AUDIENCE = "https://service.example.com";
  static final String SCOPE = "https://www.googleapis.com/auth/cloud-platform";

  public static void main(String[] args) throws Exception {
    String document = Files.readString(Path.of(System.getenv("GCEMDS_DOCUMENT")));
    String issuer = System.getenv("GCEMDS_ISSUER");

    GoogleCredentials found = GoogleCredentials.getApplicationDefault().createScoped(List.of(SCOPE));
    ComputeEngineCredentials credentials = (ComputeEngineCredentials) found;
    String email = credentials.getAccount();
    check(document.contains("\"email\": \"" + email + "\""), "getAccount() = " + email);

    AccessToken token = credentials.refreshAccessToken();
    long left = token.getExpirationTime().getTime() - System.currentTimeMillis();
    check(left > 225_000 && left <= 3_600_000, "the access token expires in " + left + " ms");
    String info = get(issuer + "/tokeninfo?access_token=" + token.getTokenValue());
    check(info.contains("\"" + SCOPE + "\""), "tokeninfo: " + info);

    IdTokenCredentials identity = IdTokenCredentials.newBuilder()
        .setIdTokenProvider(credentials)
        .setTargetAudience(AUDIENCE)
        .setOptions(List.of(IdTokenProvider.Option.FORMAT_FULL))
        .build();
    identity.refresh();
    JsonWebSignature idToken =
        JsonWebSignature.parse(GsonFactory.getDefaultInstance(), identity.getIdToken().getTokenValue());
    JsonObject certificates = JsonParser.parseString(get(issuer + "/oauth2/v1/certs")).getAsJsonObject();
    String pem = certificates.get(idToken.getHeader().getKeyId()).getAsString();
    PublicKey key = CertificateFactory.getInstance("X.509")
        .generateCertificate(new ByteArrayInputStream(pem.getBytes(StandardCharsets.US_ASCII))).getPublicKey();
    check(idToken.verifySignature(key), "the signature of the ID token is not of the key that it names");
    var payload = idToken.getPayload();
    check("https://accounts.google.com".equals(payload.getIssuer()), "iss = " + payload.getIssuer());
    check(AUDIENCE.equals(payload.getAudience()), "aud = " + payload.getAudience());
    check(email.equals(payload.get("email")), "email = " + payload.get("email"));
    check(String.valueOf(payload.get("google")).contains("instance_name="), "google = " + payload.get("google"));
    System.out.println("ok");
  }

  static String get(String url) throws Exception {
    HttpResponse<String> response = HttpClient.newHttpClient().send(
        HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofString());
    check(response.statusCode() == 200, "status " + response.statusCode() + ": " + response.body());
    return response.body();
  }

  static void check(boolean good, String what) {
    if (!good) {
      throw new AssertionError(what);
    }
  }
}
