import com.google.auth.oauth2.ComputeEngineCredentials;
import com.google.auth.oauth2.GoogleCredentials;
import com.google.auth.oauth2.IdTokenCredentials;
import com.google.gson.JsonObject;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;

/** google-auth for Java says who it finds that it is, as a line of JSON: Whoami [AUDIENCE of an ID token]. */
public class Whoami {
  public static void main(String[] args) throws Exception {
    ComputeEngineCredentials credentials = (ComputeEngineCredentials)
        GoogleCredentials.getApplicationDefault().createScoped(List.of("https://www.googleapis.com/auth/cloud-platform"));
    JsonObject me = new JsonObject();
    me.addProperty("project", project());
    me.addProperty("email", credentials.getAccount());
    me.addProperty("token", credentials.refreshAccessToken().getTokenValue());
    if (args.length > 0) {
      IdTokenCredentials identity =
          IdTokenCredentials.newBuilder().setIdTokenProvider(credentials).setTargetAudience(args[0]).build();
      identity.refresh();
      me.addProperty("idToken", identity.getIdToken().getTokenValue());
    }
    System.out.println(me);
  }

  /** The library keeps the project to itself. */
  static String project() throws Exception {
    HttpRequest request = HttpRequest.newBuilder(
            URI.create("http://metadata.google.internal/computeMetadata/v1/project/project-id"))
        .header("Metadata-Flavor", "Google").build();
    return HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body();
  }
}
